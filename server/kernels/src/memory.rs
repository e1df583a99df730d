//! Memory that goes back to the system.

/// Gives memory that was freed back to the system. The allocator keeps freed memory for later, which is of no use after a model
/// has left. Takes milliseconds; does nothing where the allocator has no call for it.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
