/* Sealing and opening in place, by whichever library this machine has.
 *
 * Two backends with the same results: libipsec-mb (x86-64 with AES instructions; a third of OpenSSL's time for a datagram) and
 * OpenSSL's libcrypto. Both are looked for at run time, so that one wheel fits every machine and the build needs neither. */
#ifndef MESHD_AEAD_H
#define MESHD_AEAD_H

#include "bytes.h"

enum { AEAD_KEY_SIZE = 32, AEAD_NONCE_SIZE = 12, AEAD_TAG_SIZE = 16 };
enum aead_suite { AEAD_AES_256_GCM = 1, AEAD_CHACHA20_POLY1305 = 2, AEAD_PLAIN = 3 }; /* crypto.aead.Suite */

struct aead;

struct aead_backend {
    const char *name;
    bool (*load)(void); /* false: not on this machine */
    struct aead *(*make)(enum aead_suite suite, const uint8_t *key);
};

/* What every backend's key begins with. Both work in place; `open` leaves garbage where the tag is wrong. */
struct aead {
    const struct aead_backend *backend;
    bool (*seal)(struct aead *, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag);
    bool (*open)(struct aead *, const uint8_t *nonce, const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, const uint8_t *tag);
    void (*free)(struct aead *);
};

extern const struct aead_backend aead_ipsec, aead_openssl;

/* The backends that are here, best first; NULL at the end. Loaded at the first call, under the GIL. */
const struct aead_backend *const *aead_backends(void);

/* NULL: no backend of that name (NULL: the best), or no memory. */
struct aead *aead_new(enum aead_suite suite, const uint8_t *key, const char *backend);

bool cpu_has_aes(void);

/* Equal? In a time that does not depend on where they differ. */
static inline bool same_tag(const uint8_t *a, const uint8_t *b)
{
    uint8_t difference = 0;
    for (int i = 0; i < AEAD_TAG_SIZE; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}

#endif
