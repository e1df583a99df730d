//! Memory for packed weights: in huge pages if the system supports them, written once.
//!
//! With pages of 4 KiB a product of one row waits for address translations, and hardware prefetching stops at the end of each
//! page, so reading is slower by a third. Weights of a small model are smaller than a huge page, so they share arenas.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    mem::MaybeUninit,
    sync::Arc,
};

use parking_lot::Mutex;

/// Alignment of a buffer: a cache line, and a vector of 512 bits.
const LINE: usize = 64;
/// Size and alignment of a huge page.
const HUGE: usize = 1 << 21;
/// Bytes of an arena. The operating system provides a page when it is first written.
const ARENA: usize = 16 * HUGE;

/// The arena in which the next buffer is placed, and the bytes of it that are taken.
static OPEN: Mutex<Option<(Arc<Arena>, usize)>> = Mutex::new(None);

/// Memory that lives as long as one of its buffers.
struct Arena {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: an arena owns its memory. Buffers are disjoint, and each is written by its maker alone before it is shared.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    fn new(bytes: usize) -> Self {
        let align = if bytes >= HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(1), align).expect("a weight fits the address space");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // SAFETY: the range is this arena's own allocation; the advice does not change its contents. A refusal is
            // harmless.
            unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Self { start, layout }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// Bytes of fixed length, initialised.
pub(crate) struct Buffer {
    arena: Arc<Arena>,
    begin: usize,
    bytes: usize,
}

impl Buffer {
    /// Allocates `parts` parts of `part_bytes` bytes each. `fill` gets the number of a part and the part, zeroed, and writes its
    /// bytes. `run` makes these calls: it must call its second argument once with each number below the first.
    ///
    /// # Panics
    /// If the length overflows.
    pub(crate) fn filled(
        parts: usize,
        part_bytes: usize,
        run: impl Fn(usize, &(dyn Fn(usize) + Sync)),
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Self {
        let buffer = Self::reserve(parts.checked_mul(part_bytes).expect("a weight fits the address space"));
        // SAFETY: the reserved bytes belong to this buffer alone, and bytes of any contents are `MaybeUninit`.
        let bytes = unsafe {
            let begin = buffer.arena.start.add(buffer.begin).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(begin, buffer.bytes)
        };
        let all: Vec<_> = bytes.chunks_exact_mut(part_bytes.max(1)).map(|part| Mutex::new(Some(part))).collect();
        let take = |part: usize| all[part].lock().take();
        run(all.len(), &|part| {
            if let Some(bytes) = take(part) {
                bytes.fill(MaybeUninit::new(0));
                // SAFETY: all of the bytes were written in the line above.
                fill(part, unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [u8]) });
            }
        });
        // Each part that was taken was zeroed.
        assert!((0..all.len()).all(|part| take(part).is_none()), "all parts are filled");
        buffer
    }

    /// Reserves bytes that no other buffer has.
    fn reserve(bytes: usize) -> Self {
        if bytes > ARENA / 4 {
            return Self { arena: Arc::new(Arena::new(bytes)), begin: 0, bytes };
        }
        let mut open = OPEN.lock();
        let fitting = open.take().filter(|(_, taken)| ARENA - taken >= bytes);
        let (arena, begin) = fitting.unwrap_or_else(|| (Arc::new(Arena::new(ARENA)), 0));
        *open = Some((Arc::clone(&arena), begin + bytes.next_multiple_of(LINE)));
        Self { arena, begin, bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `filled` has written all of these bytes, and they are not written again.
        unsafe { std::slice::from_raw_parts(self.arena.start.add(self.begin), self.bytes) }
    }
}
