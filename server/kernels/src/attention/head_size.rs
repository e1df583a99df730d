//! The head sizes that are supported.

use super::grouping::BLOCK;

/// The largest head size that is supported.
pub const MAX_HEAD_SIZE: usize = 512;

/// Whether attention supports heads of `size` components.
pub fn fits(size: usize) -> bool {
    size > 0 && size.is_multiple_of(BLOCK) && size <= MAX_HEAD_SIZE
}
