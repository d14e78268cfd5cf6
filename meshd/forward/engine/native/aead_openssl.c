/* The backend over OpenSSL's libcrypto, through its EVP calls. Their signatures and numbers are those of 1.1 and 3 alike, so they
 * are declared here, and the build needs no header of OpenSSL. */
#include <dlfcn.h>
#include <stdlib.h>

#include "aead.h"

typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct engine_st ENGINE;

enum { SET_IVLEN = 0x9, GET_TAG = 0x10, SET_TAG = 0x11 }; /* EVP_CTRL_AEAD_…, openssl/evp.h */

static struct {
    EVP_CIPHER_CTX *(*new_context)(void);
    void (*free_context)(EVP_CIPHER_CTX *);
    int (*control)(EVP_CIPHER_CTX *, int, int, void *);
    int (*init)(EVP_CIPHER_CTX *, const EVP_CIPHER *, ENGINE *, const unsigned char *, const unsigned char *, int encrypt);
    int (*update)(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);
    int (*final)(EVP_CIPHER_CTX *, unsigned char *, int *);
    const EVP_CIPHER *(*aes_256_gcm)(void);
    const EVP_CIPHER *(*chacha20_poly1305)(void);
} evp;

struct evp_key {
    struct aead aead;
    EVP_CIPHER_CTX *sealing, *opening;
};

static bool find(void *library, void *into, const char *name)
{
    void *found = dlsym(library, name);
    memcpy(into, &found, sizeof found);
    return found != NULL;
}

static bool load(void)
{
    void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        library = dlopen("libcrypto.so.1.1", RTLD_NOW | RTLD_LOCAL);
    return library && find(library, &evp.new_context, "EVP_CIPHER_CTX_new") &&
           find(library, &evp.free_context, "EVP_CIPHER_CTX_free") && find(library, &evp.control, "EVP_CIPHER_CTX_ctrl") &&
           find(library, &evp.init, "EVP_CipherInit_ex") && find(library, &evp.update, "EVP_CipherUpdate") &&
           find(library, &evp.final, "EVP_CipherFinal_ex") && find(library, &evp.aes_256_gcm, "EVP_aes_256_gcm") &&
           find(library, &evp.chacha20_poly1305, "EVP_chacha20_poly1305");
}

static void release(struct aead *aead)
{
    struct evp_key *key = (struct evp_key *)aead;
    evp.free_context(key->sealing);
    evp.free_context(key->opening);
    free(key);
}

/* `data` is the associated data's continuation where `hidden` is false (GMAC). */
static bool run(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, bool hidden)
{
    uint8_t rest[AEAD_TAG_SIZE];
    int written = 0;
    return evp.init(context, NULL, NULL, NULL, nonce, -1) > 0 &&
           (!aad_size || evp.update(context, NULL, &written, aad, (int)aad_size) > 0) &&
           (!size || evp.update(context, hidden ? data : NULL, &written, data, (int)size) > 0) &&
           evp.final(context, rest, &written) > 0;
}

static bool seal_hidden(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag)
{
    EVP_CIPHER_CTX *context = ((struct evp_key *)aead)->sealing;
    return run(context, nonce, aad, aad_size, data, size, true) && evp.control(context, GET_TAG, AEAD_TAG_SIZE, tag) > 0;
}

static bool seal_plain(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag)
{
    EVP_CIPHER_CTX *context = ((struct evp_key *)aead)->sealing;
    return run(context, nonce, aad, aad_size, data, size, false) && evp.control(context, GET_TAG, AEAD_TAG_SIZE, tag) > 0;
}

static bool open_as(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag, bool hidden)
{
    EVP_CIPHER_CTX *context = ((struct evp_key *)aead)->opening;
    uint8_t expected[AEAD_TAG_SIZE];
    memcpy(expected, tag, AEAD_TAG_SIZE);
    return evp.control(context, SET_TAG, AEAD_TAG_SIZE, expected) > 0 && run(context, nonce, aad, aad_size, data, size, hidden);
}

static bool open_hidden(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag)
{
    return open_as(aead, nonce, aad, aad_size, data, size, tag, true);
}

static bool open_plain(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag)
{
    return open_as(aead, nonce, aad, aad_size, data, size, tag, false);
}

static EVP_CIPHER_CTX *context(const EVP_CIPHER *cipher, const uint8_t *key, int encrypt)
{
    EVP_CIPHER_CTX *made = evp.new_context();
    if (made && (evp.init(made, cipher, NULL, NULL, NULL, encrypt) <= 0 || evp.control(made, SET_IVLEN, AEAD_NONCE_SIZE, NULL) <= 0 ||
                 evp.init(made, NULL, NULL, key, NULL, encrypt) <= 0)) {
        evp.free_context(made);
        return NULL;
    }
    return made;
}

static struct aead *make(enum aead_suite suite, const uint8_t *key)
{
    const EVP_CIPHER *cipher = suite == AEAD_CHACHA20_POLY1305 ? evp.chacha20_poly1305() : evp.aes_256_gcm();
    struct evp_key *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->aead = (struct aead){.seal = seal_hidden, .open = open_hidden, .free = release};
    if (suite == AEAD_PLAIN) {
        made->aead.seal = seal_plain;
        made->aead.open = open_plain;
    }
    made->sealing = context(cipher, key, 1);
    made->opening = context(cipher, key, 0);
    if (!made->sealing || !made->opening) {
        release(&made->aead);
        return NULL;
    }
    return &made->aead;
}

const struct aead_backend aead_openssl = {"openssl", load, make};
