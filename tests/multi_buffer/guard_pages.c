/*
 * Calls each function of crypto_mb with every number at the very end of a page, then at the very
 * start of one, between pages that nobody may touch: one byte read or written beyond what the
 * caller gave ends the program. The numbers are random, so the answers mean nothing; each lane has
 * to be accepted, and lanes that are empty refused.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef unsigned char byte;
typedef unsigned long long word;
enum { LANES = 8, PAGE = 4096 };

const void *mbx_RSA_private_crt_Method(int);
const void *mbx_RSA_pub65537_Method(int);
int mbx_RSA_Method_BufSize(const void *);
unsigned mbx_rsa_private_crt_mb8(const byte **, byte **, const word **, const word **, const word **,
                                 const word **, const word **, int, const void *, byte *);
unsigned mbx_rsa_public_mb8(const byte **, byte **, const word **, int, const void *, byte *);
typedef unsigned ecdsa_sign(byte **, byte **, const byte **, const word **, const word **, byte *);
ecdsa_sign mbx_nistp256_ecdsa_sign_mb8, mbx_nistp384_ecdsa_sign_mb8;
unsigned mbx_x25519_public_key_mb8(byte **, const byte **);
unsigned mbx_x25519_mb8(byte **, const byte **, const byte **);

static int at_start;

/* Random bytes, with a forbidden page beside them. */
static void *guarded(int len) {
    int pages = (len + PAGE - 1) / PAGE;
    byte *memory = mmap(0, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) exit(2);
    if (mprotect(memory + PAGE, pages * PAGE, PROT_READ | PROT_WRITE)) exit(2);
    byte *start = at_start ? memory + PAGE : memory + (pages + 1) * PAGE - len;
    for (int i = 0; i < len; i++) start[i] = rand();
    return start;
}

static word *odd_and_full(int len) {
    word *number = guarded(len);
    number[0] |= 1;
    number[len / 8 - 1] |= 1ULL << 63;
    return number;
}

static word *below_the_order(int len) {
    word *number = guarded(len);
    number[len / 8 - 1] >>= 1;
    return number;
}

static void check(const char *what, int lanes, unsigned status) {
    for (int lane = 0; lane < LANES; lane++) {
        int accepted = (status >> 4 * lane & 0xf) == 0;
        if (accepted != (lane < lanes)) {
            printf("%s, %d lanes: status %08x\n", what, lanes, status);
            exit(1);
        }
    }
}

/* For memory to work in, which the caller aligns. */
static byte *scratch(const void *method) {
    int len = (mbx_RSA_Method_BufSize(method) + 63) / 64 * 64;
    return guarded(len);
}

static void rsa(int bits, int lanes) {
    const byte *from[LANES] = {0};
    byte *to[LANES] = {0};
    const word *key[5][LANES] = {{0}}, *n[LANES] = {0};
    for (int lane = 0; lane < lanes; lane++) {
        byte *block = guarded(bits / 8);
        block[0] = 0;
        from[lane] = block;
        to[lane] = guarded(bits / 8);
        for (int i = 0; i < 5; i++) key[i][lane] = odd_and_full(bits / 16);
        n[lane] = odd_and_full(bits / 8);
    }
    const void *method = mbx_RSA_private_crt_Method(bits);
    check("RSA, private", lanes, mbx_rsa_private_crt_mb8(from, to, key[0], key[1], key[2], key[3],
                                                         key[4], bits, method, scratch(method)));
    method = mbx_RSA_pub65537_Method(bits);
    check("RSA, public", lanes, mbx_rsa_public_mb8(from, to, n, bits, method, scratch(method)));
}

static void ecdsa(const char *what, ecdsa_sign *sign, int len, int lanes) {
    byte *r[LANES] = {0}, *s[LANES] = {0};
    const byte *digest[LANES] = {0};
    const word *nonce[LANES] = {0}, *key[LANES] = {0};
    for (int lane = 0; lane < lanes; lane++) {
        r[lane] = guarded(len);
        s[lane] = guarded(len);
        digest[lane] = guarded(len);
        nonce[lane] = below_the_order(len);
        key[lane] = below_the_order(len);
    }
    check(what, lanes, sign(r, s, digest, nonce, key, 0));
}

static void x25519(int lanes) {
    byte *output[LANES] = {0};
    const byte *private[LANES] = {0}, *public[LANES] = {0};
    for (int lane = 0; lane < lanes; lane++) {
        output[lane] = guarded(32);
        private[lane] = guarded(32);
        public[lane] = guarded(32);
    }
    check("X25519", lanes, mbx_x25519_mb8(output, private, public));
    check("X25519, public key", lanes, mbx_x25519_public_key_mb8(output, private));
}

int main(void) {
    for (at_start = 0; at_start < 2; at_start++) {
        for (int lanes = 1; lanes <= LANES; lanes++) {
            for (int bits = 2048; bits <= 4096; bits += 1024) rsa(bits, lanes);
            ecdsa("P-256", mbx_nistp256_ecdsa_sign_mb8, 32, lanes);
            ecdsa("P-384", mbx_nistp384_ecdsa_sign_mb8, 48, lanes);
            x25519(lanes);
        }
    }
    return 0;
}
