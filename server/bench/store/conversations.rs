//! Measures operations on conversations in a store with a million of them, against a store with a thousand. Each store is a Redis server
//! or a file of its own, filled as the server fills it. The stores take turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use caudal_server::store::{
    conversations::{Conversation, ConversationBounds, Conversations, Item},
    page::{Order, Page},
};
use caudal_tests::{DataDir, Redis};
use futures::{StreamExt, stream};
use serde_json::json;

use crate::{Figure, embedded, quantile, retention, store};

const FEW: usize = 1000;
/// The tenant that has a tenth of the conversations in the large store, and all of them in the small store.
const LARGE: &str = "large";
/// Conversations of each other tenant.
const EACH: usize = 1000;
const ROUNDS: usize = 2000;
/// The first rounds, which are not counted.
const WARM_UP: usize = 200;
const AT_ONCE: usize = 256;
/// Conversations of a page.
const PAGE: usize = 20;
const OPERATIONS: [&str; 3] = ["create", "list, first page", "resume: it and its items"];

/// The operations on one tenant's conversations, and their times.
struct Asked<'a> {
    conversations: &'a dyn Conversations,
    tenant: String,
    count: usize,
    /// Operation → its time in each round, in µs.
    times: [Vec<f64>; 3],
}

const BOUNDS: ConversationBounds = ConversationBounds { items: 5000, bytes: 4 << 20 };

/// Where conversations are stored.
enum Place {
    Redis(Box<Redis>),
    File(DataDir),
}

impl Place {
    fn redis() -> Self {
        // Nothing is written to disk; a million conversations take 1.5 GB of memory.
        Self::Redis(Box::new(Redis::with(&["--save", "", "--appendonly", "no", "--maxmemory", "8gb"])))
    }

    fn file() -> Self {
        Self::File(DataDir::create())
    }

    fn conversations(&self) -> Arc<dyn Conversations> {
        match self {
            Self::Redis(redis) => Arc::new(store(redis, "a").conversations(retention(), BOUNDS)),
            Self::File(data) => Arc::new(embedded(data).conversations(retention(), BOUNDS)),
        }
    }

    fn bytes(&self) -> f64 {
        match self {
            Self::Redis(redis) => {
                let used = redis.ask(&["INFO", "memory"]);
                let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
                used.unwrap_or(f64::NAN)
            }
            Self::File(data) => std::fs::metadata(data.file()).map_or(f64::NAN, |file| file.len() as f64),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "Redis",
            Self::File(_) => "sqlite",
        }
    }
}

fn id(tenant: &str, n: usize) -> String {
    format!("conv_{tenant}_{n}")
}

/// Creates a conversation with a question and an answer.
async fn create(conversations: &dyn Conversations, tenant: &str, id: &str) {
    let conversation = Conversation {
        id: id.into(),
        tenant: tenant.into(),
        created_at: 1_700_000_000,
        metadata: [("title".to_owned(), "Of rivers".to_owned())].into(),
    };
    let item = |n: usize, role: &str, kind: &str, text: String| Item {
        id: format!("msg_{id}_{n}"),
        body: json!({"type": "message", "id": format!("msg_{id}_{n}"), "status": "completed", "role": role,
                     "content": [{"type": kind, "text": text}]}),
    };
    let items = vec![
        item(0, "user", "input_text", "Where does the river go?".into()),
        item(1, "assistant", "output_text", "From the spring to the sea. ".repeat(8)),
    ];
    conversations.create(conversation, items).await.expect("create");
}

/// Tenant and number of each of `count` conversations. The tenants are mixed, as on a real server.
fn spread(count: usize) -> impl Iterator<Item = (String, usize)> {
    let (large, tenants) = (count / 10, ((count - count / 10) / EACH).max(1));
    (0..count).map(move |n| match n % 10 {
        0 if n / 10 < large => (LARGE.to_owned(), n / 10),
        _ => {
            let n = n - n / 10 - 1;
            (format!("tenant{}", n % tenants), n / tenants)
        }
    })
}

/// Creates conversations and returns the time that this took.
async fn fill(conversations: &Arc<dyn Conversations>, all: impl Iterator<Item = (String, usize)>) -> Duration {
    let begun = Instant::now();
    stream::iter(all)
        .map(|(tenant, n)| {
            let conversations = conversations.clone();
            tokio::spawn(async move { create(&*conversations, &tenant, &id(&tenant, n)).await })
        })
        .buffer_unordered(AT_ONCE)
        .for_each(|created| async { created.expect("a conversation is created") })
        .await;
    begun.elapsed()
}

impl Asked<'_> {
    async fn ask(&mut self, round: usize, random: usize) {
        let (asked, tenant) = (self.conversations, self.tenant.as_str());
        let new = format!("conv_{tenant}_new_{round}");
        let begun = Instant::now();
        create(asked, tenant, &new).await;
        let created = begun.elapsed();
        let begun = Instant::now();
        let page = Page { after: None, limit: PAGE, order: Order::Descending };
        let listed = asked.list(tenant, &page).await.expect("list");
        let listed_in = begun.elapsed();
        assert_eq!((listed.data.len(), listed.data[0].id.as_str()), (PAGE, new.as_str()));
        let old = id(tenant, random % self.count);
        let begun = Instant::now();
        asked.get(tenant, &old).await.expect("get");
        let items = asked.items(tenant, &old, &page).await.expect("items");
        let resumed = begun.elapsed();
        assert_eq!(items.data.len(), 2);
        // Restores the number of conversations.
        asked.delete(tenant, &new).await.expect("delete");
        if round >= WARM_UP {
            for (times, took) in self.times.iter_mut().zip([created, listed_in, resumed]) {
                times.push(took.as_secs_f64() * 1e6);
            }
        }
    }
}

pub async fn rows(many: usize) -> Vec<Figure> {
    let mut figures = compared(many, [Place::file(), Place::file()]).await;
    figures.extend(compared(many, [Place::redis(), Place::redis()]).await);
    figures
}

async fn compared(many: usize, [small, big]: [Place; 2]) -> Vec<Figure> {
    let (few, all) = (small.conversations(), big.conversations());
    fill(&few, (0..FEW).map(|n| (LARGE.to_owned(), n))).await;
    let took = fill(&all, spread(many)).await;
    println!(
        "{}: {many} conversations of two items, stored in {:.0} s; a tenant has {} of them",
        big.name(),
        took.as_secs_f64(),
        many / 10
    );

    let asked = |conversations, tenant: &str, count| Asked {
        conversations,
        tenant: tenant.into(),
        count,
        times: Default::default(),
    };
    let mut asked =
        [asked(&*few, LARGE, FEW), asked(&*all, LARGE, many / 10), asked(&*all, "tenant0", EACH.min(many / 2))];
    let mut random = 1usize;
    for round in 0..ROUNDS {
        for at in 0..asked.len() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            asked[(at + round) % 3].ask(round, random >> 33).await;
        }
    }
    let medians = asked.map(|asked| asked.times.map(|mut times: Vec<f64>| quantile(&mut times, 0.5)));
    let (kind, bytes) = (big.name(), big.bytes() / many as f64);
    let mut figures = vec![Figure::new(format!("{kind}: bytes of a conversation"), bytes, "")];
    for (at, operation) in OPERATIONS.iter().enumerate() {
        let [few, large, other] = [medians[0][at], medians[1][at], medians[2][at]];
        figures.push(Figure::new(format!("{kind}: {operation}: of {FEW}, µs"), few, ""));
        figures.push(Figure::new(
            format!("{kind}: {operation}: of {many}, the large tenant, to that"),
            large / few,
            "≤ 1.3",
        ));
        figures.push(Figure::new(
            format!("{kind}: {operation}: of {many}, another tenant, to that"),
            other / few,
            "≤ 1.3",
        ));
    }
    figures
}
