//! The conformance suite of the stores of prompts.

use futures::future::join_all;

use crate::{
    store::{
        StoreError,
        page::{Order, Page},
        prompts::{PromptBounds, Prompts, StoredPrompt, Use},
    },
    wire::prompt::Template,
};

/// The bounds of the stores under test.
pub const BOUNDS: PromptBounds = PromptBounds { prompts: 8, versions: 20, bytes: 20_000 };

pub async fn all<S: Prompts>(make: impl AsyncFn() -> S) {
    versions_are_counted_and_kept(make().await).await;
    versions_put_at_once_are_each_their_own(make().await).await;
    prompts_are_listed_in_pages(make().await).await;
    other_tenants_see_nothing(make().await).await;
    bounds_hold(make().await).await;
    the_most_used_are_hot(make().await).await;
}

fn prompt(tenant: &str, id: &str, text: &str) -> StoredPrompt {
    let template = Template { instructions: Some(text.into()), ..Template::default() };
    StoredPrompt { id: id.into(), tenant: tenant.into(), version: 0, created_at: 5, template }
}

async fn versions_are_counted_and_kept<S: Prompts>(store: S) {
    for (n, text) in ["one", "two", "three"].into_iter().enumerate() {
        let stored = store.put(prompt("t", "p", text)).await.unwrap();
        assert_eq!(stored, StoredPrompt { version: n as u32 + 1, ..prompt("t", "p", text) });
    }
    assert_eq!(store.get("t", "p", None).await.unwrap().template.instructions.as_deref(), Some("three"));
    assert_eq!(store.get("t", "p", Some(1)).await.unwrap().template.instructions.as_deref(), Some("one"));
    assert_eq!(store.get("t", "p", Some(4)).await, Err(StoreError::NotFound));
    assert_eq!(store.get("t", "q", None).await, Err(StoreError::NotFound));
    store.delete("t", "p").await.unwrap();
    assert_eq!(store.get("t", "p", None).await, Err(StoreError::NotFound));
    assert_eq!(store.delete("t", "p").await, Err(StoreError::NotFound));
    assert_eq!(store.put(prompt("t", "p", "again")).await.unwrap().version, 1);
}

async fn versions_put_at_once_are_each_their_own<S: Prompts>(store: S) {
    let put = join_all((0..10).map(|n| store.put(prompt("t", "p", &n.to_string())))).await;
    let mut versions: Vec<u32> = put.into_iter().map(|stored| stored.unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=10).collect::<Vec<_>>());
}

async fn prompts_are_listed_in_pages<S: Prompts>(store: S) {
    for id in ["c", "a", "d", "b", "e"] {
        store.put(prompt("t", id, "x")).await.unwrap();
    }
    store.put(prompt("t", "c", "second")).await.unwrap();
    let page = |after: Option<&str>, order| Page { after: after.map(str::to_owned), limit: 2, order };
    let ids = async |page| {
        let listed = store.list("t", &page).await.unwrap();
        (listed.data.into_iter().map(|p| (p.id, p.version)).collect::<Vec<_>>(), listed.has_more)
    };
    assert_eq!(ids(page(None, Order::Ascending)).await, (vec![("c".into(), 2), ("a".into(), 1)], true));
    assert_eq!(ids(page(Some("a"), Order::Ascending)).await, (vec![("d".into(), 1), ("b".into(), 1)], true));
    assert_eq!(ids(page(Some("a"), Order::Descending)).await, (vec![("c".into(), 2)], false));
    assert_eq!(store.list("t", &page(Some("x"), Order::Ascending)).await.unwrap_err(), StoreError::CursorNotFound);
}

async fn other_tenants_see_nothing<S: Prompts>(store: S) {
    store.put(prompt("t", "p", "x")).await.unwrap();
    assert_eq!(store.get("other", "p", None).await, Err(StoreError::NotFound));
    assert_eq!(store.delete("other", "p").await, Err(StoreError::NotFound));
    assert_eq!(store.list("other", &Page::all()).await.unwrap().data, []);
    assert_eq!(store.put(prompt("other", "p", "y")).await.unwrap().version, 1, "ids are a tenant's own");
    assert_eq!(store.get("t", "p", None).await.unwrap().template.instructions.as_deref(), Some("x"));
}

async fn bounds_hold<S: Prompts>(store: S) {
    for n in 0..BOUNDS.prompts {
        store.put(prompt("t", &n.to_string(), "x")).await.unwrap();
    }
    assert_eq!(store.put(prompt("t", "more", "x")).await, Err(StoreError::OverBounds));
    assert_eq!(store.put(prompt("t", "0", "x")).await.unwrap().version, 2);
    let large = "x".repeat(BOUNDS.bytes - 5000);
    store.put(prompt("t", "0", &large)).await.unwrap();
    assert_eq!(store.put(prompt("t", "1", &large)).await, Err(StoreError::OverBounds));
    store.delete("t", "0").await.unwrap();
    store.put(prompt("t", "1", &large)).await.unwrap();
    for version in 2..=BOUNDS.versions {
        assert_eq!(store.put(prompt("t", "2", "x")).await.unwrap().version, version);
    }
    assert_eq!(store.put(prompt("t", "2", "x")).await, Err(StoreError::OverBounds));
}

async fn the_most_used_are_hot<S: Prompts>(store: S) {
    let of = |tenant: &str, prompt: &str, model: &str| Use {
        tenant: tenant.into(),
        prompt: prompt.into(),
        model: model.into(),
    };
    for (tenant, id, weight) in [("t", "a", 1.0), ("t", "b", 4.0), ("u", "c", 2.0), ("t", "d", 0.5), ("t", "b\"", 0.4)]
    {
        store.put(prompt(tenant, id, "x")).await.unwrap();
        store.used(of(tenant, id, "m"), weight).await.unwrap();
    }
    store.used(of("t", "a", "m"), 2.0).await.unwrap();
    store.used(of("t", "b", "n"), 3.5).await.unwrap();
    let expected = [of("t", "b", "m"), of("t", "b", "n"), of("t", "a", "m"), of("u", "c", "m")];
    assert_eq!(store.hot(4).await.unwrap(), expected, "a prompt is as hot as it is with that model");
    store.delete("t", "b").await.unwrap();
    let expected = [of("t", "a", "m"), of("u", "c", "m"), of("t", "d", "m"), of("t", "b\"", "m")];
    assert_eq!(store.hot(9).await.unwrap(), expected);
}
