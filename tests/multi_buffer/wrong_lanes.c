/*
 * A crypto_mb whose lanes lie. Linked against the library, it overrides one of its functions:
 *
 *   -DFLIP   lane 3 has one bit wrong
 *   -DSWAP   lanes 2 and 5 get each other's answers
 *
 * Neither touches a lane that is alone in its call, so known-answer tests pass.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef const unsigned long long *const *words;
typedef unsigned (*private_crt)(const unsigned char *const *, unsigned char *const *, words, words,
                                words, words, words, int, const void *, unsigned char *);

unsigned mbx_rsa_private_crt_mb8(const unsigned char *const *from, unsigned char *const *to,
                                 words p, words q, words dp, words dq, words qinv, int bits,
                                 const void *method, unsigned char *scratch) {
    private_crt real = (private_crt)dlsym(RTLD_NEXT, "mbx_rsa_private_crt_mb8");
    if (!real) abort();
    unsigned status = real(from, to, p, q, dp, dq, qinv, bits, method, scratch);
#ifdef FLIP
    if (to[3]) to[3][bits / 16] ^= 4;
#endif
#ifdef SWAP
    if (to[2] && to[5]) {
        unsigned char kept[512];
        memcpy(kept, to[2], bits / 8);
        memcpy(to[2], to[5], bits / 8);
        memcpy(to[5], kept, bits / 8);
    }
#endif
    return status;
}
