//! A query and the tokens that it attends to.

use std::ops::Range;

use super::{
    grouping::{GROUP, PART},
    tile::Span,
};

/// One query.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// `size` values.
    pub query: *const f32,
    /// The address of the `size` results.
    pub result: *mut f32,
    /// The tokens that it attends to: `from..to`.
    pub from: usize,
    pub to: usize,
    /// Mask values by token, to be added to the scores; each token of `from..to` has one.
    pub mask: Option<*const f32>,
}

/// The parts of a sequence that hold some token of `rows`.
pub(super) fn parts(rows: &[Row]) -> Range<usize> {
    let from = rows.iter().map(|row| row.from).min().unwrap_or(0);
    let to = rows.iter().map(|row| row.to).max().unwrap_or(0);
    from / PART..to.div_ceil(PART).max(from / PART)
}

/// The tokens that at least one of `rows` attends to in the group that begins with token `first`.
#[inline(always)]
pub(super) fn span(rows: &[Row], first: usize) -> Option<Span> {
    let mut span = Span { from: GROUP, to: 0 };
    for row in rows {
        let (from, to) = (row.from.max(first) - first, row.to.min(first + GROUP).saturating_sub(first));
        if from < to {
            span = Span { from: span.from.min(from), to: span.to.max(to) };
        }
    }
    (span.from < span.to).then_some(span)
}
