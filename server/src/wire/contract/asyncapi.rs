//! AsyncAPI 3: the events of both directions of a WebSocket.

use serde_json::{Map, Value, json};

use super::schemas::{Schemas, add, add_first, event_name, reference, type_of};
use crate::wire::{
    SUBPROTOCOL,
    client::{Cancel, Resume},
    error::ErrorEvent,
    event::{Event, Extension},
    request::Body,
    steer::{SteerBody, SteerEvent},
};

/// Returns the schema of `stream_id`.
fn stream_id() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,256}$"})
}

/// Adds the schemas of a response's events, and returns a reference to their union.
pub fn response_events(schemas: &mut Schemas) -> Value {
    let mut names = vec![];
    for (tag, mut event) in schemas.variants::<Event>() {
        add(
            &mut event,
            true,
            &[(
                "sequence_number",
                json!({"type": "integer", "minimum": 0,
            "description": "Starts at 0 for each response and has no gaps."}),
            )],
        );
        let own = json!({"type": "string", "description": format!("Only for clients of {SUBPROTOCOL}.")});
        add(&mut event, false, &[("response_id", own), ("stream_id", stream_id())]);
        if tag == "response.created" {
            let warnings = json!({"type": "array", "items": {"type": "string"},
                "description": format!("The ignored parts of the request. Only for clients of {SUBPROTOCOL}.")});
            add(&mut event, false, &[("caudal:warnings", warnings)]);
        }
        names.push(add_event(schemas, &tag, event));
    }
    let union: Vec<Value> = names.iter().map(|name| reference(name)).collect();
    schemas.add("ResponseEvent", json!({"oneOf": union, "description": "An event of a response."}))
}

fn add_event(schemas: &mut Schemas, tag: &str, event: Value) -> String {
    let name = event_name(tag);
    schemas.add(&name, event);
    name
}

/// Adds the schemas of the events that the connection's own counter numbers. Returns the tag and the schema's name of each.
fn connection_events(schemas: &mut Schemas) -> Vec<(String, String)> {
    let mut variants = schemas.variants::<Extension<'static>>();
    variants.extend(schemas.variants::<SteerEvent<'static>>());
    let added = variants.into_iter().map(|(tag, mut event)| {
        let number =
            json!({"type": "integer", "minimum": 0, "description": "Numbers the connection's own events, from 0."});
        add(&mut event, true, &[("sequence_number", number)]);
        add(&mut event, false, &[("stream_id", stream_id())]);
        let name = add_event(schemas, &tag, event);
        (tag, name)
    });
    added.collect()
}

/// Adds the schemas of the events of clients. Returns the tag and the schema's name of each.
fn client_events(schemas: &mut Schemas) -> Vec<(String, String)> {
    let empty = |text: &str| json!({"type": "object", "description": text});
    let events = [
        ("response.create", schemas.fields::<Body>()),
        ("caudal:response.resume", schemas.fields::<Resume>()),
        ("caudal:response.cancel", schemas.fields::<Cancel>()),
        ("response.cancel", schemas.fields::<Cancel>()),
        ("response.steer", schemas.fields::<SteerBody>()),
        ("caudal:ping", empty("Asks for a caudal:pong.")),
        ("caudal:pong", empty("Shows that the client is alive, like any other message.")),
    ];
    let added = events.into_iter().map(|(tag, mut event)| {
        add(&mut event, false, &[("stream_id", stream_id())]);
        add_first(&mut event, "type", type_of(tag));
        let name = format!("Client{}", event_name(tag));
        schemas.add(&name, event);
        (tag.to_owned(), name)
    });
    added.collect()
}

fn messages(events: &[(String, String)]) -> Map<String, Value> {
    let message = |(tag, name): &(String, String)| {
        let message = json!({"name": tag, "contentType": "application/json", "payload": reference(name)});
        (name.clone(), message)
    };
    events.iter().map(message).collect()
}

pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let sent_by_clients = client_events(&mut schemas);
    response_events(&mut schemas);
    let mut sent_by_server: Vec<(String, String)> =
        schemas.variants::<Event>().into_iter().map(|(tag, _)| (tag.clone(), event_name(&tag))).collect();
    sent_by_server.extend(connection_events(&mut schemas));
    let error = schemas.written::<ErrorEvent<'static>>();
    sent_by_server.push(("error".into(), error["$ref"].as_str().map_or_else(String::new, last).to_owned()));
    let of = |events: &[(String, String)]| -> Vec<Value> {
        let path = |name: &str| json!({"$ref": format!("#/channels/responses/messages/{name}")});
        events.iter().map(|(_, name)| path(name)).collect()
    };
    let (received, sent) = (of(&sent_by_clients), of(&sent_by_server));
    let mut all = messages(&sent_by_clients);
    all.append(&mut messages(&sent_by_server));
    schemas.finish(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Caudal over WebSocket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!("Events of the Responses API. Those that begin with `caudal:` are sent only to \
                clients that offer the subprotocol `{SUBPROTOCOL}`."),
        },
        "defaultContentType": "application/json",
        "servers": {"here": {"host": "{host}", "protocol": "ws", "variables": {"host": {"default": "127.0.0.1:8080"}},
                             "security": [{"$ref": "#/components/securitySchemes/bearer"}]}},
        "channels": {"responses": {"address": "/v1/responses", "messages": all}},
        "operations": {
            "receive": {"action": "receive", "channel": {"$ref": "#/channels/responses"}, "messages": received,
                        "summary": "What clients send."},
            "send": {"action": "send", "channel": {"$ref": "#/channels/responses"}, "messages": sent,
                     "summary": "What the server sends."},
        },
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer",
            "description": "Needed with auth.mode = \"keys\". Browsers send the subprotocol \
                `openai-insecure-api-key.SECRET` with a client secret instead."}}},
    }))
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
