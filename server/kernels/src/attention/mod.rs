//! Attention on a CPU.
