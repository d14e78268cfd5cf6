#include "aead.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

enum { BACKENDS = 2 };

const struct aead_backend *const *aead_backends(void)
{
    static const struct aead_backend *const known[BACKENDS] = {&aead_ipsec, &aead_openssl};
    static const struct aead_backend *present[BACKENDS + 1];
    static bool looked;
    if (!looked) {
        looked = true;
        for (int i = 0, count = 0; i < BACKENDS; i++)
            if (known[i]->load())
                present[count++] = known[i];
    }
    return present;
}

struct aead *aead_new(enum aead_suite suite, const uint8_t *key, const char *backend)
{
    for (const struct aead_backend *const *at = aead_backends(); *at; at++) {
        if (backend && strcmp(backend, (*at)->name) != 0)
            continue;
        struct aead *made = (*at)->make(suite, key);
        if (made)
            made->backend = *at;
        return made;
    }
    return NULL;
}

bool cpu_has_aes(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & (1 << 3)) != 0; /* HWCAP_AES, asm/hwcap.h */
#else
    return false;
#endif
}
