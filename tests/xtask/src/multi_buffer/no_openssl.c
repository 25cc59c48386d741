/*
 * crypto_mb has a second set of functions, which take OpenSSL's big numbers. Nobody here calls
 * them, and without OpenSSL beside it the library is loaded into no process that has another one.
 * What they would call ends the process instead of going on with nonsense.
 */
#include <stdlib.h>

_Noreturn void BN_bin2bn(void) { abort(); }
_Noreturn void BN_bn2lebinpad(void) { abort(); }
_Noreturn void BN_num_bits(void) { abort(); }
_Noreturn void ECDSA_SIG_get0(void) { abort(); }
