//! The machine's cores, divided among the slots that compute, whichever model they are of.

use std::sync::{Arc, Mutex};

use super::threads::{Helpers, lock};

pub struct Cores {
    count: usize,
    computing: Mutex<Vec<Arc<Helpers>>>,
}

/// A slot's part of the cores, for as long as it computes. Each slot's grows and shrinks as others end and begin.
pub struct Share {
    cores: Arc<Cores>,
    helpers: Arc<Helpers>,
}

impl Cores {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, computing: Mutex::default() })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn share(self: &Arc<Self>, helpers: Arc<Helpers>) -> Share {
        let mut computing = lock(&self.computing);
        computing.push(helpers.clone());
        self.divide(&computing);
        Share { cores: self.clone(), helpers }
    }

    /// Each slot bounds it by its own size.
    fn divide(&self, computing: &[Arc<Helpers>]) {
        let threads = (self.count / computing.len().max(1)).max(1);
        computing.iter().for_each(|helpers| helpers.allow(threads));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut computing = lock(&self.cores.computing);
        if let Some(own) = computing.iter().position(|helpers| Arc::ptr_eq(helpers, &self.helpers)) {
            computing.swap_remove(own);
        }
        self.cores.divide(&computing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_divided_among_those_that_compute() {
        let cores = Cores::new(8);
        let slots: Vec<Arc<Helpers>> = [8, 8, 2].map(|size| Arc::new(Helpers::new(size))).into();
        let allowed = || slots.iter().map(|helpers| helpers.allowed()).collect::<Vec<_>>();
        let first = cores.share(slots[0].clone());
        assert_eq!(allowed(), [8, 8, 2]);
        let second = cores.share(slots[1].clone());
        assert_eq!(allowed(), [4, 4, 2]);
        let third = cores.share(slots[2].clone());
        assert_eq!(allowed(), [2, 2, 2]);
        drop(first);
        drop(third);
        assert_eq!(allowed()[1], 8);
        drop(second);
        let many: Vec<Share> = (0..20).map(|_| cores.share(slots[0].clone())).collect();
        assert_eq!(allowed()[0], 1, "never none");
        drop(many);
    }
}
