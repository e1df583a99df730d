//! Returns freed memory to the operating system.

/// The smallest allocation, in bytes, that returns to the operating system when it is freed. Weights and caches are larger; the
/// tensors of a step are smaller.
const OWN_PAGES: i32 = 8 << 20;

/// Makes the allocator map each large allocation separately. Otherwise glibc raises its threshold when the first one is freed,
/// keeps later ones for reuse, and an unloaded model returns little memory. Does nothing unless the allocator is glibc's.
pub fn keep_large_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes the allocator's own locks and sets a number.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Returns freed memory that the allocator keeps for reuse, which is useless after a model was unloaded. Takes milliseconds. Does
/// nothing unless the allocator is glibc's.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches freed memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
