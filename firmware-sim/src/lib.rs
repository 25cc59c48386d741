//! A simulated card.
