//! Memory for packed weights: aligned to cache lines, in huge pages where the system has them, written once.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// Alignment of a small buffer: a cache line, and a vector of 512 bits.
const LINE: usize = 64;
/// Size and alignment of a huge page.
const HUGE: usize = 1 << 21;

/// Initialised bytes of fixed length.
pub(crate) struct Buffer {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the buffer owns its memory, and shared access only reads it.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Allocates `parts` parts of `part_bytes` bytes each. `fill` gets the number of a part and the part, zeroed, and writes
    /// its bytes; the calls are shared out by `run`, which calls its argument once with each number below its first.
    ///
    /// # Panics
    /// If the length overflows.
    pub(crate) fn filled(
        parts: usize,
        part_bytes: usize,
        run: impl Fn(usize, &(dyn Fn(usize) + Sync)),
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Self {
        let bytes = parts.checked_mul(part_bytes).expect("a weight fits the address space");
        let align = if bytes >= HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(1), align).expect("a weight fits the address space");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        let buffer = Self { start, layout };
        if bytes >= HUGE {
            buffer.ask_for_huge_pages();
        }
        let base = Base(start);
        run(parts, &|part| {
            assert!(part < parts, "a part of the buffer");
            let base = &base;
            // SAFETY: parts do not overlap and lie inside the allocation, and no part is filled by two calls at once. The
            // bytes are zeroed before a slice of them is made.
            let slice = unsafe {
                let begin = base.0.add(part * part_bytes);
                begin.write_bytes(0, part_bytes);
                std::slice::from_raw_parts_mut(begin, part_bytes)
            };
            fill(part, slice);
        });
        buffer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `filled` has written all bytes, and nobody writes them again.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }

    /// Fewer misses of the address cache, and hardware prefetching that does not stop each 4 KiB.
    fn ask_for_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: the range is this buffer's own allocation; the advice does not change its contents. A refusal is harmless.
        unsafe {
            libc::madvise(self.start.cast(), self.layout.size(), libc::MADV_HUGEPAGE);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `filled` with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// Start of the memory that threads fill in parts.
struct Base(*mut u8);
// SAFETY: `Buffer::filled` hands disjoint parts to the threads.
unsafe impl Sync for Base {}
