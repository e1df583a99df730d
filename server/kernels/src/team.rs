//! The threads that compute.
