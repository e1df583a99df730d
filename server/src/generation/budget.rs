//! Budgets: bounds on bytes, streams or sockets that one connection or one tenant holds at a time. A [`BudgetShare`] counts until
//! it is dropped.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// A bound, and the sum of the shares that are held.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    held: AtomicUsize,
}

/// A share of a budget. Dropping it returns the amount.
#[derive(Debug)]
pub struct BudgetShare {
    budget: Arc<Budget>,
    amount: usize,
}

impl Budget {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0) })
    }

    /// Takes a share. Returns `None` if all shares together would exceed the bound.
    pub fn hold(self: &Arc<Self>, amount: usize) -> Option<BudgetShare> {
        let mut held = BudgetShare { budget: self.clone(), amount: 0 };
        held.grow(amount).then_some(held)
    }

    pub fn most(&self) -> usize {
        self.most
    }
}

impl BudgetShare {
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds to the share. Returns `false`, and changes nothing, if all shares together would exceed the bound.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let most = self.budget.most;
        let within = |held: usize| held.checked_add(more).filter(|held| *held <= most);
        let grown = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if grown {
            self.amount += more;
        }
        grown
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// A budget for each tenant that holds a share.
#[derive(Debug)]
pub struct Budgets {
    most: usize,
    tenants: Mutex<HashMap<String, Weak<Budget>>>,
}

impl Budgets {
    pub fn new(most: usize) -> Self {
        Self { most, tenants: Mutex::default() }
    }

    pub fn of(&self, tenant: &str) -> Arc<Budget> {
        let mut tenants = self.tenants.lock();
        if let Some(budget) = tenants.get(tenant).and_then(Weak::upgrade) {
            return budget;
        }
        // Drops the budgets of tenants that hold no share any more.
        tenants.retain(|_, budget| budget.strong_count() > 0);
        let budget = Budget::new(self.most);
        tenants.insert(tenant.to_owned(), Arc::downgrade(&budget));
        budget
    }
}

/// Returns the bound of a setting in which 0 means no bound.
pub fn bounded(setting: usize) -> usize {
    if setting == 0 { usize::MAX } else { setting }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let budget = Budget::new(10);
        let mut first = budget.hold(6).unwrap();
        assert!(budget.hold(5).is_none());
        assert!(!first.grow(5) && first.grow(4));
        assert!(budget.hold(1).is_none() && budget.hold(usize::MAX).is_none());
        drop(first);
        assert!(budget.hold(10).is_some());
    }

    #[test]
    fn a_tenant_has_one_budget_and_those_without_use_are_forgotten() {
        let budgets = Budgets::new(10);
        let held = budgets.of("a").hold(8).unwrap();
        assert!(budgets.of("a").hold(3).is_none());
        assert!(budgets.of("b").hold(3).is_some());
        budgets.of("c");
        assert_eq!(budgets.tenants.lock().len(), 2);
        drop(held);
        assert!(budgets.of("a").hold(10).is_some());
    }
}
