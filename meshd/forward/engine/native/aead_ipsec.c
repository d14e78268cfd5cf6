/* The backend over libipsec-mb: its direct calls, in place. */
#include <stdlib.h>

#include "aead.h"

#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)

#include <dlfcn.h>
#include <intel-ipsec-mb.h>

struct gcm {
    struct aead aead;
    struct gcm_key_data key;
};

struct chacha {
    struct aead aead;
    uint8_t key[AEAD_KEY_SIZE];
};

static IMB_MGR *manager;

/* The library's structures are its version's own: another minor version may have moved what we call through. */
static bool load(void)
{
    if (!cpu_has_aes())
        return false;
    void *library = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    unsigned (*version)(void);
    IMB_MGR *(*allocate)(uint64_t);
    void (*prepare)(IMB_MGR *, IMB_ARCH *);
    *(void **)&version = dlsym(library, "imb_get_version");
    *(void **)&allocate = dlsym(library, "alloc_mb_mgr");
    *(void **)&prepare = dlsym(library, "init_mb_mgr_auto");
    if (!version || !allocate || !prepare || version() >> 8 != IMB_VERSION_NUM >> 8)
        return false;
    manager = allocate(0);
    if (!manager)
        return false;
    IMB_ARCH architecture;
    prepare(manager, &architecture);
    return manager->imb_errno == 0 && manager->features & IMB_FEATURE_AESNI;
}

static void release(struct aead *aead, size_t size)
{
    memset(aead, 0, size);
    __asm__ volatile("" : : "r"(aead) : "memory"); /* the wiping is not to be optimised away */
    free(aead);
}

static void release_gcm(struct aead *aead) { release(aead, sizeof(struct gcm)); }

static void release_chacha(struct aead *aead) { release(aead, sizeof(struct chacha)); }

static bool seal_gcm(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag)
{
    struct gcm_context_data context;
    IMB_AES256_GCM_ENC(manager, &((struct gcm *)aead)->key, &context, data, data, size, nonce, aad, aad_size, tag, AEAD_TAG_SIZE);
    return true;
}

static bool open_gcm(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag)
{
    struct gcm_context_data context;
    uint8_t computed[AEAD_TAG_SIZE];
    IMB_AES256_GCM_DEC(manager, &((struct gcm *)aead)->key, &context, data, data, size, nonce, aad, aad_size, computed, AEAD_TAG_SIZE);
    return same_tag(computed, tag);
}

static bool seal_plain(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag)
{
    struct gcm_key_data *key = &((struct gcm *)aead)->key;
    struct gcm_context_data context;
    IMB_AES256_GMAC_INIT(manager, key, &context, nonce, AEAD_NONCE_SIZE);
    if (aad_size)
        IMB_AES256_GMAC_UPDATE(manager, key, &context, aad, aad_size);
    if (size)
        IMB_AES256_GMAC_UPDATE(manager, key, &context, data, size);
    IMB_AES256_GMAC_FINALIZE(manager, key, &context, tag, AEAD_TAG_SIZE);
    return true;
}

static bool open_plain(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag)
{
    uint8_t computed[AEAD_TAG_SIZE];
    seal_plain(aead, nonce, aad, aad_size, data, size, computed);
    return same_tag(computed, tag);
}

static bool seal_chacha(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag)
{
    const uint8_t *key = ((struct chacha *)aead)->key;
    struct chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(manager, key, &context, nonce, aad, aad_size);
    IMB_CHACHA20_POLY1305_ENC_UPDATE(manager, key, &context, data, data, size);
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(manager, &context, tag, AEAD_TAG_SIZE);
    return true;
}

static bool open_chacha(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag)
{
    const uint8_t *key = ((struct chacha *)aead)->key;
    struct chacha20_poly1305_context_data context;
    uint8_t computed[AEAD_TAG_SIZE];
    IMB_CHACHA20_POLY1305_INIT(manager, key, &context, nonce, aad, aad_size);
    IMB_CHACHA20_POLY1305_DEC_UPDATE(manager, key, &context, data, data, size);
    IMB_CHACHA20_POLY1305_DEC_FINALIZE(manager, &context, computed, AEAD_TAG_SIZE);
    return same_tag(computed, tag);
}

static struct aead *make(enum aead_suite suite, const uint8_t *key)
{
    if (suite == AEAD_CHACHA20_POLY1305) {
        struct chacha *made = calloc(1, sizeof *made);
        if (!made)
            return NULL;
        memcpy(made->key, key, AEAD_KEY_SIZE);
        made->aead = (struct aead){.seal = seal_chacha, .open = open_chacha, .free = release_chacha};
        return &made->aead;
    }
    struct gcm *made = aligned_alloc(64, (sizeof *made + 63) / 64 * 64);
    if (!made)
        return NULL;
    IMB_AES256_GCM_PRE(manager, key, &made->key);
    made->aead = (struct aead){.seal = seal_gcm, .open = open_gcm, .free = release_gcm};
    if (suite == AEAD_PLAIN) {
        made->aead.seal = seal_plain;
        made->aead.open = open_plain;
    }
    return &made->aead;
}

#else

static bool load(void) { return false; }

static struct aead *make(enum aead_suite suite, const uint8_t *key)
{
    (void)suite;
    (void)key;
    return NULL;
}

#endif

const struct aead_backend aead_ipsec = {"ipsec-mb", load, make};
