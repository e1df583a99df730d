//! Memory that goes back to the system.

/// A piece of memory of at least so many bytes goes back to the system when it is freed. Weights and caches are larger; what a
/// step computes is smaller.
const OWN_PAGES: i32 = 8 << 20;

/// Lets large pieces of memory lie apart. Otherwise the allocator learns from the first large piece that is freed to keep all
/// later ones for reuse, and a model that leaves gives little back. Does nothing where the allocator has no call for it.
pub fn keep_large_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes the allocator's own locks and sets a number.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Gives memory that was freed back to the system. The allocator keeps freed memory for later, which is of no use after a model
/// has left. Takes milliseconds; does nothing where the allocator has no call for it.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
