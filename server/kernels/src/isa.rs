//! Which instruction set this process uses.
