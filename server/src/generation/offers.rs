//! Which replica has the beginning of a prompt cached: the report to the other replicas, and their reports.

use std::{cmp::Reverse, collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use crate::{
    engine::kv::BlockName,
    store::{Header, fleet::Member},
};

/// A prompt has one name for each beginning of a multiple of this many tokens.
const STEP: usize = 256;
/// Names that a replica reports to the others: 5 KB.
const MAX_REPORTED: usize = 256;
/// The longest time that an offer waits: shorter than the time after which a sweep takes the response for lost.
pub const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// Beginnings of prompts that this replica has cached, and the reports of the other replicas.
pub struct Offers {
    /// Names of the beginnings that this replica has computed, the most recently used last.
    computed: Mutex<VecDeque<u64>>,
    /// The maximum of names to report; 0 if there are no other replicas.
    max_names: usize,
    /// The replicas that lived at the last heartbeat.
    others: Mutex<Vec<Member>>,
    /// The time for which an offer waits for the other replica.
    pub patience: Duration,
}

impl Offers {
    /// `cache`: the tokens of prompts that the engine can cache; `None` if the engine does not count them.
    pub fn new(is_fleet: bool, cache: Option<usize>, patience: Duration) -> Self {
        let max_names = cache.map_or(MAX_REPORTED, |tokens| (tokens / STEP).min(MAX_REPORTED));
        let max_names = if is_fleet { max_names } else { 0 };
        Self { computed: Mutex::default(), max_names, others: Mutex::default(), patience }
    }

    /// Notes that the keys and values of a response's prompt and output are cached on this replica now.
    pub fn computed(&self, header: &Header, output: &[u32]) {
        if self.max_names == 0 {
            return;
        }
        let names = names(header, &[&header.prompt, output].concat());
        let mut computed = self.computed.lock();
        // In reverse, so that the shortest beginnings count as the most recent: they are used more often than longer ones.
        for name in names.into_iter().rev() {
            computed.retain(|other| *other != name);
            computed.push_back(name);
        }
        let surplus = computed.len().saturating_sub(self.max_names);
        computed.drain(..surplus);
    }

    /// Returns the names to report, the most recently used last.
    pub fn reported(&self) -> Vec<u64> {
        self.computed.lock().iter().copied().collect()
    }

    /// Replaces the reports of the other living replicas.
    pub fn set_others(&self, others: Vec<Member>) {
        *self.others.lock() = others;
    }

    /// Returns the replica that has the longest beginning of a prompt and is not busier than this one, and the length of that
    /// beginning in tokens. `running`: responses of the model that run here.
    pub fn best(&self, header: &Header, running: usize) -> Option<(String, usize)> {
        let others = self.others.lock();
        if others.is_empty() {
            return None;
        }
        let names = names(header, &header.prompt);
        let found = others.iter().filter_map(|member| {
            let there = member.report.models.get(&header.model)?;
            let is_free = there.waiting == 0 && there.idle > 0 && there.running <= running;
            let known = names.iter().take_while(|name| member.report.prompts.contains(name)).count();
            (is_free && known > 0).then_some((known, Reverse(there.running), &member.replica))
        });
        found.max().map(|(known, _, replica)| (replica.clone(), known * STEP))
    }

    /// Counts an offered response as one that runs on the other replica, until the next heartbeat.
    pub fn offered(&self, replica: &str, model: &str) {
        let mut others = self.others.lock();
        let member = others.iter_mut().find(|member| member.replica == replica);
        if let Some(there) = member.and_then(|member| member.report.models.get_mut(model)) {
            there.running += 1;
            there.idle = there.idle.saturating_sub(1);
        }
    }
}

/// Returns the names of a prompt's beginnings, each [`STEP`] tokens longer than the one before. The names are equal on all
/// replicas.
fn names(header: &Header, tokens: &[u32]) -> Vec<u64> {
    let next = |name: &mut BlockName, chunk: &[u32]| {
        *name = name.next(chunk);
        let first = name.bytes().first_chunk().copied().unwrap_or_default();
        Some(u64::from_be_bytes(first))
    };
    tokens.chunks_exact(STEP).scan(BlockName::root(&header.model, &header.tenant), next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        conformance,
        fleet::{Occupancy, Report},
    };

    fn header(tenant: &str, tokens: u32) -> Header {
        Header { prompt: (0..tokens).collect(), model: "m".into(), ..conformance::header("resp_1", tenant) }
    }

    fn member(replica: &str, running: usize, idle: usize, prompts: Vec<u64>) -> Member {
        let there = Occupancy { running, waiting: 0, idle };
        let report = Report { models: [("m".to_owned(), there)].into(), prompts };
        Member { replica: replica.into(), silent: Duration::ZERO, report }
    }

    fn reported(offers: &Offers) -> Vec<u64> {
        offers.computed.lock().iter().copied().collect()
    }

    #[test]
    fn the_longest_beginning_wins_unless_its_replica_is_busier() {
        let offers = Offers::new(true, None, Duration::ZERO);
        let asked = header("t", 1000);
        let names = names(&asked, &asked.prompt);
        assert_eq!(names.len(), 3);
        let short = member("short", 0, 1, names[..1].to_vec());
        let long = member("long", 1, 1, names.clone());
        let gap = member("gap", 0, 1, names[1..].to_vec());
        *offers.others.lock() = vec![short, long, gap];
        assert_eq!(offers.best(&asked, 1), Some(("long".into(), 768)));
        assert_eq!(offers.best(&asked, 0), Some(("short".into(), 256)), "the other runs one");
        offers.offered("long", "m");
        assert_eq!(offers.best(&asked, 9), Some(("short".into(), 256)), "the other has no place left");
        assert_eq!(offers.best(&header("u", 1000), 9), None, "another tenant's");
        assert_eq!(offers.best(&header("t", 255), 9), None);
    }

    #[test]
    fn the_beginnings_used_last_are_told() {
        let offers = Offers::new(true, Some(4 * STEP), Duration::ZERO);
        let (one, other) = (header("t", 768), header("u", 512));
        offers.computed(&one, &[]);
        offers.computed(&other, &[7; 255]);
        let (mut of_one, of_other) = (names(&one, &one.prompt), names(&other, &other.prompt));
        assert_eq!(reported(&offers), [of_one[1], of_one[0], of_other[1], of_other[0]]);
        offers.computed(&one, &[7; 256]);
        of_one.reverse();
        assert_eq!(reported(&offers)[1..], of_one);
        let alone = Offers::new(false, None, Duration::ZERO);
        alone.computed(&one, &[]);
        assert!(reported(&alone).is_empty());
    }
}
