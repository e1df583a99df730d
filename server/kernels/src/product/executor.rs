//! The instruction set and the threads that compute a product.

use crate::{
    isa::{self, Isa},
    team,
};

/// Instructions that the machine has, and threads.
#[derive(Clone, Copy)]
pub(crate) struct Executor<'a> {
    pub isa: Isa,
    pub threads: usize,
    pub run: &'a Run<'a>,
}

/// A function such as [`team::run`]: calls its second argument once with each number below the first, and returns when all calls
/// have returned.
pub(crate) type Run<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

impl Executor<'static> {
    /// This process's instruction set and team.
    pub(crate) fn current() -> Self {
        Self { isa: isa::current(), threads: team::size(), run: &team::run }
    }
}

#[cfg(test)]
impl<'a> Executor<'a> {
    /// An executor whose work is cut for `threads` threads and computed by `run`.
    ///
    /// # Panics
    /// If the machine lacks `isa`.
    pub(crate) fn new(isa: Isa, threads: usize, run: &'a Run<'a>) -> Self {
        assert!(Isa::available().contains(&isa), "{isa:?} on this machine");
        Self { isa, threads, run }
    }
}
