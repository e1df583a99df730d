//! The order of waiting requests: by tier, then by tenant, then by length. Each rule has a bound, so that every request starts:
//!
//! - `priority` goes before `default`, and `default` before `flex`. A tier that was passed over [`MAX_PASSED_OVER`] times goes next. Each
//!   tier with waiting requests gets at least one of six starts.
//! - The tenants of a tier share it by weight and expected cost, whatever the number of their requests (start-time fair
//!   queueing). The use of a tenant, in any tier, is remembered while requests wait.
//! - Weights hold across tiers: a tenant whose `priority` requests have used [`MAX_AHEAD`] requests more than its share waits for the
//!   tenants of `default`. So priority shortens the wait, but gives no larger share.
//! - Of a tenant's requests in a tier, the one with the lowest expected cost goes first. At most [`MAX_OVERTAKES`] later requests
//!   overtake a request.
//!
//! The order depends on neither time nor randomness, so a clone of the queue predicts it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::estimate::Work;
use crate::wire::response::ServiceTier;

/// The maximum of starts of higher tiers while a tier waits.
const MAX_PASSED_OVER: u32 = 4;
/// The maximum of later requests of the same tenant and tier that start before a request.
const MAX_OVERTAKES: u64 = 8;

/// The number of requests by which a tenant's `priority` requests may exceed its share.
const MAX_AHEAD: f64 = 4.0;

/// A request in the queue.
#[derive(Debug, Clone)]
pub struct QueuedRequest {
    /// The number of the arrival at the gate.
    pub number: u64,
    pub tenant: Arc<str>,
    pub tier: ServiceTier,
    pub work: Work,
    /// Expected seconds divided by the tenant's weight.
    pub cost: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// The tiers with waiting requests.
    tiers: BTreeMap<ServiceTier, Tier>,
    /// The virtual time at which each tenant's next request is due. The tenant with the lowest tag of a tier is served next.
    tags: HashMap<Arc<str>, f64>,
}

#[derive(Debug, Clone, Default)]
struct Tier {
    /// Starts of higher tiers since the last start of this tier, or since its first request arrived.
    passed_over: u32,
    /// The virtual time: the tag of the tenant that was served last.
    clock: f64,
    tenants: HashMap<Arc<str>, QueueTenant>,
}

/// The tenant that is next in a tier, with its tag and the cost of its cheapest request.
struct NextTenant {
    tag: f64,
    cost: f64,
    tenant: Arc<str>,
}

#[derive(Debug, Clone, Default)]
struct QueueTenant {
    arrived: u64,
    /// The number of the arrived requests that wait no longer.
    gone: u64,
    /// Waiting requests, oldest first, each with its number among the tenant's arrivals.
    waiting: VecDeque<(u64, QueuedRequest)>,
}

impl Queue {
    pub fn push(&mut self, waiting: QueuedRequest) {
        if !self.tags.contains_key(&waiting.tenant) {
            self.forget_tags();
        }
        let tier = self.tiers.entry(waiting.tier).or_default();
        let clock = tier.clock;
        let tenant = tier.tenants.entry(waiting.tenant.clone()).or_default();
        let tag = self.tags.entry(waiting.tenant.clone()).or_insert(clock);
        if tenant.waiting.is_empty() {
            *tag = tag.max(clock);
        }
        tenant.waiting.push_back((tenant.arrived, waiting));
        tenant.arrived += 1;
    }

    /// Returns the next request without removing it.
    pub fn peek(&self) -> Option<QueuedRequest> {
        self.clone().pop()
    }

    /// Removes and returns the next request.
    pub fn pop(&mut self) -> Option<QueuedRequest> {
        let overdue = self.tiers.iter().find(|(_, tier)| tier.passed_over >= MAX_PASSED_OVER);
        let (&name, _) = overdue.or_else(|| self.tiers.first_key_value())?;
        let name = if name == ServiceTier::Priority && self.is_ahead() { ServiceTier::Default } else { name };
        for (_, lower) in self.tiers.range_mut((Excluded(name), Unbounded)) {
            lower.passed_over += 1;
        }
        let tier = self.tiers.get_mut(&name)?;
        tier.passed_over = 0;
        let next = tier.pop(&mut self.tags);
        self.forget_empty();
        next
    }

    /// Returns whether the tenant that is next in `priority` has used more than its share compared to the next tenant in `default`.
    fn is_ahead(&self) -> bool {
        let due = |tier| self.tiers.get(&tier).and_then(|tier: &Tier| tier.next(&self.tags));
        let (Some(next), Some(other)) = (due(ServiceTier::Priority), due(ServiceTier::Default)) else { return false };
        // A response that was taken over has cost 0 and waits for no other tenant.
        next.cost > 0.0 && next.tag - other.tag > MAX_AHEAD * next.cost
    }

    /// Forgets the tags of tenants without requests, except tags ahead of the virtual time: forgetting those would favour the
    /// tenant.
    fn forget_tags(&mut self) {
        let Self { tiers, tags } = self;
        tiers.values_mut().for_each(|tier| tier.tenants.retain(|_, tenant| !tenant.waiting.is_empty()));
        let latest = tiers.values().map(|tier| tier.clock).fold(0.0, f64::max);
        let waits = |tenant: &Arc<str>| tiers.values().any(|tier| tier.tenants.contains_key(tenant));
        tags.retain(|tenant, tag| *tag > latest || waits(tenant));
    }

    /// Removes a request that waits no longer.
    pub fn remove(&mut self, number: u64) {
        for tenant in self.tiers.values_mut().flat_map(|tier| tier.tenants.values_mut()) {
            if let Some(at) = tenant.waiting.iter().position(|(_, waiting)| waiting.number == number) {
                tenant.remove(at);
                break;
            }
        }
        self.forget_empty();
    }

    /// Returns the tenant's requests in all tiers.
    pub fn of_tenant(&self, tenant: &str) -> impl Iterator<Item = &QueuedRequest> {
        let tenants = self.tiers.values().filter_map(move |tier| tier.tenants.get(tenant));
        tenants.flat_map(|tenant| tenant.waiting.iter().map(|(_, waiting)| waiting))
    }

    fn forget_empty(&mut self) {
        self.tiers.retain(|_, tier| tier.tenants.values().any(|tenant| !tenant.waiting.is_empty()));
        if self.tiers.is_empty() {
            self.tags.clear();
        }
    }
}

impl Tier {
    /// Returns the tenant that is served next.
    fn next(&self, tags: &HashMap<Arc<str>, f64>) -> Option<NextTenant> {
        let due = self.tenants.iter().filter_map(|(name, tenant)| {
            let tag = tags.get(name).copied().unwrap_or(self.clock);
            Some((tag, tenant.waiting.front()?.1.number, name, tenant))
        });
        // Equal tags: the tenant whose request has waited longest.
        let (tag, _, name, tenant) = due.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
        let cost = tenant.waiting.iter().map(|(_, waiting)| waiting.cost).min_by(f64::total_cmp)?;
        Some(NextTenant { tag, cost, tenant: name.clone() })
    }

    fn pop(&mut self, tags: &mut HashMap<Arc<str>, f64>) -> Option<QueuedRequest> {
        let NextTenant { tag, tenant, .. } = self.next(tags)?;
        let next = self.tenants.get_mut(&tenant)?.pop()?;
        self.clock = self.clock.max(tag);
        tags.insert(tenant, tag + next.cost);
        Some(next)
    }
}

impl QueueTenant {
    fn pop(&mut self) -> Option<QueuedRequest> {
        // All requests that arrived before the oldest are gone. The other gone requests have overtaken it, or left the queue.
        let overtaken = self.gone - self.waiting.front()?.0;
        let costs = self.waiting.iter().map(|(_, waiting)| waiting.cost);
        let (shortest, _) = costs.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        self.remove(if overtaken >= MAX_OVERTAKES { 0 } else { shortest })
    }

    fn remove(&mut self, at: usize) -> Option<QueuedRequest> {
        self.gone += 1;
        self.waiting.remove(at).map(|(_, waiting)| waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ServiceTier::{Default as Standard, Flex, Priority};

    const WORK: Work = Work { prompt_tokens: 1, max_output_tokens: 1 };

    fn waiting(number: u64, tenant: &str, tier: ServiceTier, cost: f64) -> QueuedRequest {
        QueuedRequest { number, tenant: tenant.into(), tier, work: WORK, cost }
    }

    fn order(queue: &mut Queue) -> Vec<QueuedRequest> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    fn numbers(queue: &mut Queue) -> Vec<u64> {
        order(queue).iter().map(|next| next.number).collect()
    }

    #[test]
    fn equals_go_in_order_of_arrival() {
        let mut queue = Queue::default();
        (0..20).for_each(|n| queue.push(waiting(n, "t", Standard, 1.0)));
        assert_eq!(numbers(&mut queue), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn shorter_ones_go_first_and_nobody_is_overtaken_without_end() {
        let mut queue = Queue::default();
        queue.push(waiting(0, "t", Standard, 100.0));
        queue.push(waiting(1, "t", Standard, 50.0));
        (2..40).for_each(|n| queue.push(waiting(n, "t", Standard, 1.0)));
        let order = numbers(&mut queue);
        let started = |number| order.iter().position(|n| *n == number).unwrap() as u64;
        assert_eq!(order[..8], [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(started(0), MAX_OVERTAKES);
        assert_eq!(started(1), MAX_OVERTAKES + 1, "both have been overtaken as often as may be");
        // The same with new ones arriving for ever, and with some that leave.
        queue.push(waiting(100, "t", Standard, 100.0));
        for n in 101.. {
            queue.push(waiting(n, "t", Standard, 1.0));
            queue.push(waiting(n + 1000, "t", Standard, 2.0));
            queue.remove(n + 1000);
            if queue.pop().unwrap().number == 100 {
                assert!(n - 101 <= MAX_OVERTAKES);
                break;
            }
        }
    }

    #[test]
    fn many_requests_of_one_tenant_do_not_delay_anothers_single_one() {
        let mut queue = Queue::default();
        (0..200).for_each(|n| queue.push(waiting(n, "many", Standard, 1.0)));
        for _ in 0..50 {
            queue.pop();
        }
        queue.push(waiting(200, "one", Standard, 1.0));
        let order = numbers(&mut queue);
        assert!(order[..2].contains(&200), "{:?}", &order[..4]);
    }

    #[test]
    fn tenants_share_by_expected_cost_and_weight() {
        let mut queue = Queue::default();
        for n in 0..300 {
            queue.push(waiting(3 * n, "long", Standard, 4.0));
            queue.push(waiting(3 * n + 1, "short", Standard, 1.0));
            // Weight 2: half the cost.
            queue.push(waiting(3 * n + 2, "heavy", Standard, 0.5));
        }
        let mut used = HashMap::<Arc<str>, f64>::new();
        for _ in 0..200 {
            let next = queue.pop().unwrap();
            *used.entry(next.tenant).or_default() += next.cost;
            let most = used.values().copied().fold(0.0, f64::max);
            let least = used.values().copied().fold(f64::INFINITY, f64::min);
            assert!(used.len() < 3 || most - least <= 5.0, "within a request of each other: {used:?}");
        }
    }

    #[test]
    fn a_tenant_that_comes_one_by_one_pays_for_what_it_used() {
        let mut queue = Queue::default();
        (0..200).for_each(|n| queue.push(waiting(n, "many", Standard, 1.0)));
        let (mut expensive, mut cheap) = (0, 0);
        queue.push(waiting(1000, "costly", Standard, 10.0));
        for n in 0..110 {
            match &*queue.pop().unwrap().tenant {
                "costly" => {
                    expensive += 1;
                    queue.push(waiting(1001 + n, "costly", Standard, 10.0));
                }
                _ => cheap += 1,
            }
        }
        assert!((9..=11).contains(&expensive) && cheap >= 99, "{expensive} of ten seconds, {cheap} of one");
    }

    #[test]
    fn who_was_away_has_saved_nothing() {
        let mut queue = Queue::default();
        (0..100).for_each(|n| queue.push(waiting(n, "here", Standard, 1.0)));
        for _ in 0..50 {
            queue.pop();
        }
        (100..150).for_each(|n| queue.push(waiting(n, "back", Standard, 1.0)));
        let first: Vec<_> = (0..20).filter_map(|_| queue.pop()).filter(|next| &*next.tenant == "back").collect();
        assert!((10..=11).contains(&first.len()), "{} of 20", first.len());
    }

    #[test]
    fn higher_tiers_go_first_and_no_tier_starves() {
        let mut queue = Queue::default();
        for (n, tier) in [Flex, Standard, Priority].into_iter().enumerate() {
            queue.push(waiting(n as u64, "t", tier, 1.0));
        }
        assert_eq!(numbers(&mut queue), [2, 1, 0]);
        for n in 0..60 {
            for tier in [Priority, Standard, Flex] {
                queue.push(waiting(n, "t", tier, 1.0));
            }
        }
        let tiers: Vec<ServiceTier> = (0..60).filter_map(|_| queue.pop()).map(|next| next.tier).collect();
        for six in tiers.chunks(6) {
            assert_eq!(six, [Priority, Priority, Priority, Priority, Standard, Flex]);
        }
    }

    #[test]
    fn priority_saves_waiting_and_gives_no_larger_share() {
        let mut queue = Queue::default();
        for n in 0..400 {
            queue.push(waiting(2 * n, "vip", Priority, 1.0));
            // Weight 3.
            queue.push(waiting(2 * n + 1, "heavy", Standard, 1.0 / 3.0));
        }
        let first: Vec<ServiceTier> = (0..4).filter_map(|_| queue.pop()).map(|next| next.tier).collect();
        assert_eq!(first, [Priority; 4]);
        let served: Vec<_> = (0..300).filter_map(|_| queue.pop()).collect();
        let heavy = served.iter().filter(|next| &*next.tenant == "heavy").count();
        assert!((220..=240).contains(&heavy), "three of four, and what it was behind: {heavy} of 300");
        // What was taken over waits for nobody.
        queue.push(waiting(5000, "vip", Priority, 0.0));
        assert_eq!(queue.pop().map(|next| next.number), Some(5000));
    }

    #[test]
    fn a_random_queue_loses_nobody_and_keeps_its_bounds() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut queue = Queue::default();
        let mut waits: BTreeMap<u64, (QueuedRequest, u64)> = BTreeMap::new();
        let same = |a: &QueuedRequest, b: &QueuedRequest| a.tenant == b.tenant && a.tier == b.tier;
        for number in 0..20_000 {
            // Longer and shorter by turns.
            if next(2000) < if number / 500 % 2 == 0 { 1200 } else { 800 } {
                let tier = [Priority, Standard, Flex][next(3) as usize];
                let new = waiting(number, ["a", "b", "c"][next(3) as usize], tier, next(100) as f64);
                queue.push(new.clone());
                waits.insert(number, (new, 0));
                continue;
            }
            if next(5) == 0 {
                let Some(number) = waits.keys().copied().nth(next(waits.len().max(1) as u64) as usize) else {
                    continue;
                };
                queue.remove(number);
                waits.remove(&number);
                continue;
            }
            let Some(popped) = queue.pop() else {
                assert!(waits.is_empty());
                continue;
            };
            let (popped, overtaken) = waits.remove(&popped.number).expect("who goes has waited, and goes once");
            assert!(overtaken <= MAX_OVERTAKES);
            let earlier = waits.range_mut(..popped.number).filter(|(_, (w, _))| same(w, &popped));
            earlier.for_each(|(_, (_, by))| *by += 1);
        }
        let mut left: Vec<u64> = numbers(&mut queue);
        left.sort();
        assert_eq!(left, waits.into_keys().collect::<Vec<_>>());
        assert!(queue.tiers.is_empty());
    }
}
