//! Products of quantised weights.
