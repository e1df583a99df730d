//! Listing in pages: what every list of a store takes and gives.

/// Which part of a list, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The last id of the page before.
    pub after: Option<String>,
    pub limit: usize,
    pub order: Order,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    Ascending,
    /// The newest first.
    #[default]
    Descending,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    pub data: Vec<T>,
    /// Whether there are more after it.
    pub has_more: bool,
}

impl Page {
    /// Everything, the oldest first.
    pub fn all() -> Self {
        Self { after: None, limit: usize::MAX, order: Order::Ascending }
    }
}

impl<T> Listed<T> {
    /// A page of what was asked for with one more than its limit, so that it is known whether more follow.
    pub fn cut(mut data: Vec<T>, limit: usize) -> Self {
        let has_more = data.len() > limit;
        data.truncate(limit);
        Self { data, has_more }
    }
}
