//! The conformance suite of the stores of conversations.

use futures::{StreamExt, future::join_all};
use serde_json::json;

use crate::store::{
    StoreError,
    conversations::{Conversation, ConversationBounds, Conversations, Item, Notice},
    page::{Listed, Order, Page},
};

/// The bounds of the stores under test.
pub const BOUNDS: ConversationBounds = ConversationBounds { items: 20, bytes: 4096 };

pub async fn all<S: Conversations>(make: impl AsyncFn() -> S) {
    what_was_created_is_there(make().await).await;
    items_are_listed_in_pages_both_ways(make().await).await;
    conversations_are_listed_in_pages_both_ways(make().await).await;
    an_item_is_found_and_removed(make().await).await;
    bounds_hold_and_nothing_is_half_done(make().await).await;
    other_tenants_see_nothing(make().await).await;
    turns_run_one_after_the_other(make().await).await;
    beginning_and_ending_twice_is_once(make().await).await;
    one_who_leaves_the_line_says_nothing(make().await).await;
    of_many_who_enter_at_once_one_is_first(make().await).await;
    watchers_learn_of_turns(make().await).await;
    deleting_deletes_all_and_names_the_responses(make().await).await;
}

pub fn conversation(id: &str, tenant: &str) -> Conversation {
    let metadata = [("topic".to_owned(), "rivers".to_owned())].into();
    Conversation { id: id.into(), tenant: tenant.into(), created_at: 7, metadata }
}

pub fn item(id: &str) -> Item {
    Item { id: id.into(), body: json!({"id": id, "type": "message", "role": "user", "content": id}) }
}

fn items(ids: &[&str]) -> Vec<Item> {
    ids.iter().map(|id| item(id)).collect()
}

fn page(after: Option<&str>, limit: usize, order: Order) -> Page {
    Page { after: after.map(str::to_owned), limit, order }
}

async fn ids<S: Conversations>(store: &S, id: &str) -> Vec<String> {
    store.items("t", id, &Page::all()).await.unwrap().data.into_iter().map(|item| item.id).collect()
}

async fn with_one<S: Conversations>(store: &S) {
    store.create(conversation("conv_a", "t"), vec![]).await.unwrap();
}

async fn what_was_created_is_there<S: Conversations>(store: S) {
    store.create(conversation("conv_a", "t"), items(&["a", "b"])).await.unwrap();
    assert_eq!(store.get("t", "conv_a").await.unwrap(), conversation("conv_a", "t"));
    assert_eq!(store.items("t", "conv_a", &Page::all()).await.unwrap().data, items(&["a", "b"]));
    store.append("t", "conv_a", items(&["c"])).await.unwrap();
    assert_eq!(ids(&store, "conv_a").await, ["a", "b", "c"]);
    let changed = store.set_metadata("t", "conv_a", [("k".to_owned(), "v".to_owned())].into()).await.unwrap();
    assert_eq!((changed.metadata.len(), changed.metadata["k"].as_str(), changed.created_at), (1, "v", 7));
    assert_eq!(store.get("t", "conv_a").await.unwrap(), changed);
    assert_eq!(store.get("t", "conv_b").await.unwrap_err(), StoreError::NotFound);
}

async fn items_are_listed_in_pages_both_ways<S: Conversations>(store: S) {
    store.create(conversation("conv_a", "t"), items(&["a", "b", "c", "d", "e"])).await.unwrap();
    for (order, expected) in
        [(Order::Ascending, ["a", "b", "c", "d", "e"]), (Order::Descending, ["e", "d", "c", "b", "a"])]
    {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().cloned();
            let Listed { data, has_more } =
                store.items("t", "conv_a", &page(after.as_deref(), 2, order)).await.unwrap();
            seen.extend(data.into_iter().map(|item| item.id));
            assert_eq!(has_more, seen.len() < 5);
            if !has_more {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    let unknown = store.items("t", "conv_a", &page(Some("nothing"), 2, Order::Ascending)).await;
    assert_eq!(unknown.unwrap_err(), StoreError::CursorNotFound);
}

async fn conversations_are_listed_in_pages_both_ways<S: Conversations>(store: S) {
    let all: Vec<String> = (0..7).map(|n| format!("conv_{}", (n * 3) % 7)).collect();
    for id in &all {
        store.create(conversation(id, "t"), vec![]).await.unwrap();
    }
    store.create(conversation("conv_other", "other"), vec![]).await.unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let listed = store.list("t", &page(seen.last().map(String::as_str), 3, order)).await.unwrap();
            seen.extend(listed.data.into_iter().map(|c| c.id));
            if !listed.has_more {
                break;
            }
        }
        if order == Order::Descending {
            seen.reverse();
        }
        assert_eq!(seen, all);
    }
    store.delete("t", "conv_3").await.unwrap();
    assert_eq!(store.list("t", &Page::all()).await.unwrap().data.len(), 6);
    let unknown = store.list("t", &page(Some("conv_other"), 2, Order::Ascending)).await;
    assert_eq!(unknown.unwrap_err(), StoreError::CursorNotFound);
    assert_eq!(store.list("nobody", &page(None, 2, Order::Ascending)).await.unwrap().data, []);
}

async fn an_item_is_found_and_removed<S: Conversations>(store: S) {
    store.create(conversation("conv_a", "t"), items(&["a", "b", "c"])).await.unwrap();
    assert_eq!(store.item("t", "conv_a", "b").await.unwrap(), item("b"));
    assert_eq!(store.remove_item("t", "conv_a", "b").await.unwrap(), conversation("conv_a", "t"));
    assert_eq!(ids(&store, "conv_a").await, ["a", "c"]);
    assert_eq!(store.item("t", "conv_a", "b").await.unwrap_err(), StoreError::ItemNotFound);
    assert_eq!(store.remove_item("t", "conv_a", "b").await.unwrap_err(), StoreError::ItemNotFound);
}

async fn bounds_hold_and_nothing_is_half_done<S: Conversations>(store: S) {
    with_one(&store).await;
    let many: Vec<Item> = (0..BOUNDS.items).map(|n| item(&n.to_string())).collect();
    store.append("t", "conv_a", many.clone()).await.unwrap();
    assert_eq!(store.append("t", "conv_a", items(&["x"])).await.unwrap_err(), StoreError::OverBounds);
    store.remove_item("t", "conv_a", "0").await.unwrap();
    assert_eq!(store.append("t", "conv_a", items(&["x", "y"])).await.unwrap_err(), StoreError::OverBounds);
    assert_eq!(ids(&store, "conv_a").await.len(), BOUNDS.items - 1);
    store.append("t", "conv_a", items(&["x"])).await.unwrap();
    let large = Item { id: "l".into(), body: json!("x".repeat(BOUNDS.bytes)) };
    let refused = store.create(conversation("conv_b", "t"), vec![large.clone()]).await;
    assert_eq!(refused.unwrap_err(), StoreError::OverBounds);
    assert_eq!(store.get("t", "conv_b").await.unwrap_err(), StoreError::NotFound);
    // Output beyond the bounds is stored.
    store.create(conversation("conv_c", "t"), vec![]).await.unwrap();
    store.enter("t", "conv_c", "resp_1", 0).await.unwrap();
    store.begin("t", "conv_c", "resp_1", items(&["in"])).await.unwrap();
    store.end("t", "conv_c", "resp_1", vec![large]).await.unwrap();
    assert_eq!(ids(&store, "conv_c").await, ["in", "l"]);
}

async fn other_tenants_see_nothing<S: Conversations>(store: S) {
    store.create(conversation("conv_a", "t"), items(&["a"])).await.unwrap();
    let not_found = StoreError::NotFound;
    assert_eq!(store.get("other", "conv_a").await.unwrap_err(), not_found);
    assert_eq!(store.set_metadata("other", "conv_a", [].into()).await.unwrap_err(), not_found);
    assert_eq!(store.append("other", "conv_a", items(&["b"])).await.unwrap_err(), not_found);
    assert_eq!(store.items("other", "conv_a", &Page::all()).await.unwrap_err(), not_found);
    assert_eq!(store.item("other", "conv_a", "a").await.unwrap_err(), not_found);
    assert_eq!(store.remove_item("other", "conv_a", "a").await.unwrap_err(), not_found);
    assert_eq!(store.enter("other", "conv_a", "resp_1", 9).await.unwrap_err(), not_found);
    assert_eq!(store.line("other", "conv_a").await.unwrap_err(), not_found);
    assert!(store.watch("other", "conv_a").await.is_err_and(|error| error == not_found));
    assert_eq!(store.delete("other", "conv_a").await.unwrap_err(), not_found);
    assert_eq!(store.list("other", &Page::all()).await.unwrap().data, []);
    assert_eq!(ids(&store, "conv_a").await, ["a"]);
}

async fn turns_run_one_after_the_other<S: Conversations>(store: S) {
    with_one(&store).await;
    assert_eq!(store.enter("t", "conv_a", "resp_1", 0).await, Ok(0));
    assert_eq!(store.enter("t", "conv_a", "resp_2", 0).await, Err(StoreError::Busy));
    assert_eq!(store.enter("t", "conv_a", "resp_2", 5).await, Ok(1));
    store.begin("t", "conv_a", "resp_1", items(&["in1"])).await.unwrap();
    assert_eq!(store.begin("t", "conv_a", "resp_2", items(&["in2"])).await, Err(StoreError::Busy));
    let line = store.line("t", "conv_a").await.unwrap();
    let turns: Vec<&str> = line.turns.iter().map(|turn| turn.response.as_str()).collect();
    assert_eq!((turns, line.latest), (vec!["resp_1", "resp_2"], None));
    store.end("t", "conv_a", "resp_1", items(&["out1"])).await.unwrap();
    store.begin("t", "conv_a", "resp_2", items(&["in2"])).await.unwrap();
    store.end("t", "conv_a", "resp_2", items(&["out2"])).await.unwrap();
    assert_eq!(ids(&store, "conv_a").await, ["in1", "out1", "in2", "out2"]);
    let line = store.line("t", "conv_a").await.unwrap();
    assert_eq!((line.turns, line.latest.as_deref()), (vec![], Some("resp_2")));
}

async fn beginning_and_ending_twice_is_once<S: Conversations>(store: S) {
    with_one(&store).await;
    store.enter("t", "conv_a", "resp_1", 0).await.unwrap();
    for _ in 0..2 {
        store.begin("t", "conv_a", "resp_1", items(&["in"])).await.unwrap();
    }
    for _ in 0..2 {
        store.end("t", "conv_a", "resp_1", items(&["out"])).await.unwrap();
    }
    store.begin("t", "conv_a", "resp_1", items(&["in"])).await.unwrap();
    assert_eq!(ids(&store, "conv_a").await, ["in", "out"]);
}

async fn one_who_leaves_the_line_says_nothing<S: Conversations>(store: S) {
    with_one(&store).await;
    for n in 1..=3 {
        store.enter("t", "conv_a", &format!("resp_{n}"), 9).await.unwrap();
    }
    store.end("t", "conv_a", "resp_2", items(&["never"])).await.unwrap();
    store.end("t", "conv_a", "resp_1", items(&["never"])).await.unwrap();
    store.begin("t", "conv_a", "resp_3", items(&["in"])).await.unwrap();
    assert_eq!(ids(&store, "conv_a").await, ["in"]);
}

async fn of_many_who_enter_at_once_one_is_first<S: Conversations>(store: S) {
    with_one(&store).await;
    let entered = join_all((0..10).map(|n| {
        let store = &store;
        async move { store.enter("t", "conv_a", &format!("resp_{n}"), 20).await.unwrap() }
    }));
    let mut places = entered.await;
    places.sort_unstable();
    assert_eq!(places, (0..10).collect::<Vec<_>>());
}

async fn watchers_learn_of_turns<S: Conversations>(store: S) {
    with_one(&store).await;
    let mut watchers = [store.watch("t", "conv_a").await.unwrap(), store.watch("t", "conv_a").await.unwrap()];
    store.enter("t", "conv_a", "resp_1", 0).await.unwrap();
    store.begin("t", "conv_a", "resp_1", vec![]).await.unwrap();
    store.end("t", "conv_a", "resp_1", vec![]).await.unwrap();
    for watcher in &mut watchers {
        assert_eq!(watcher.next().await, Some(Notice::Began("resp_1".into())));
        assert_eq!(watcher.next().await, Some(Notice::Moved));
    }
    store.delete("t", "conv_a").await.unwrap();
    for watcher in &mut watchers {
        assert_eq!(watcher.next().await, None);
    }
}

async fn deleting_deletes_all_and_names_the_responses<S: Conversations>(store: S) {
    store.create(conversation("conv_a", "t"), items(&["a"])).await.unwrap();
    for response in ["resp_1", "resp_2"] {
        store.enter("t", "conv_a", response, 0).await.unwrap();
        store.begin("t", "conv_a", response, vec![]).await.unwrap();
        if response == "resp_1" {
            store.end("t", "conv_a", response, vec![]).await.unwrap();
        }
    }
    let mut responses = store.delete("t", "conv_a").await.unwrap();
    responses.sort();
    assert_eq!(responses, ["resp_1", "resp_2"]);
    assert_eq!(store.get("t", "conv_a").await.unwrap_err(), StoreError::NotFound);
    assert_eq!(store.items("t", "conv_a", &Page::all()).await.unwrap_err(), StoreError::NotFound);
    let ended = store.end("t", "conv_a", "resp_2", items(&["late"])).await;
    assert_eq!(ended.unwrap_err(), StoreError::NotFound);
    assert_eq!(store.delete("t", "conv_a").await.unwrap_err(), StoreError::NotFound);
}
