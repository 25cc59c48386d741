//! House rules a compiler cannot check.
