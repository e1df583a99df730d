//! Pages of lists.

/// A request for a part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The last id of the previous page; `None` for the first page.
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
    /// The list has more after this page.
    pub has_more: bool,
}

impl Page {
    /// Requests the whole list, oldest first.
    pub fn all() -> Self {
        Self { after: None, limit: usize::MAX, order: Order::Ascending }
    }
}

impl<T> Listed<T> {
    /// Makes a page from up to `limit + 1` elements. The extra one shows that the list has more.
    pub fn cut(mut data: Vec<T>, limit: usize) -> Self {
        let has_more = data.len() > limit;
        data.truncate(limit);
        Self { data, has_more }
    }
}
