//! Watches accelerator cards, and says what is wrong and how it knows.
