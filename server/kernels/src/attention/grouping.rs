//! The way in which the tokens of a sequence are grouped: in blocks, groups and parts, counted from the sequence's first token.

/// Tokens of a block of the paged cache.
pub const BLOCK: usize = 16;

/// Blocks of a group.
pub(super) const GROUP_BLOCKS: usize = 4;

/// Tokens whose scores are computed together.
pub(super) const GROUP: usize = GROUP_BLOCKS * BLOCK;

/// Tokens of a part. Parts of one sequence can be computed by different threads.
pub(super) const PART: usize = 4 * GROUP;
