//! OpenAPI 3.1: every route, with its parameters, its body and its answers.

use serde_json::{Map, Value, json};

use super::{asyncapi::response_events, rules::given, schemas::Schemas};
use crate::wire::{
    chat::{ChatBody, Chunk, Completion},
    client_secret::{ClientSecret, SecretBody},
    conversation::{AppendBody, ConversationObject, CreateBody, ForkBody, UpdateBody},
    item::ListedItem,
    object::{
        Compacted, Deleted, ErrorAnswer, InputTokens, List, ModelList, ModelObject, PromptCacheReport, PromptObject,
        Readiness, ReloadReport,
    },
    prompt::PutBody,
    request::{Body, INCLUDABLE},
    response::Response,
};

/// Statuses of errors, and the reason for each.
const ERRORS: [(u16, &str); 14] = [
    (400, "The request is not valid: `param` names the field."),
    (401, "No valid API key was given."),
    (403, "The origin or the address may not connect."),
    (404, "Nothing with this id exists, for this tenant."),
    (408, "The rest of the body did not arrive in time."),
    (409, "Another turn of the conversation, or another reload, is in progress."),
    (410, "The response was not stored, and its resume window has ended."),
    (413, "The body is too large."),
    (415, "The body is not JSON, or its encoding is neither gzip nor zstd."),
    (421, "The server does not answer to this host name: see server.hosts."),
    (426, "The request is not a WebSocket handshake of version 13."),
    (429, "Too many requests or tokens of this tenant."),
    (500, "The engine failed."),
    (503, "The server has no room, is draining, or cannot reach its store."),
];

/// The key that a route requires.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Public,
    /// An API key if `auth.mode` is `keys`.
    Tenant,
    Admin,
}

#[derive(Clone)]
struct Route {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    access: Access,
    query: Vec<Value>,
    body: Option<(Value, bool)>,
    /// Status, description, and the content of each media type.
    answers: Vec<(u16, &'static str, Value)>,
    errors: Vec<u16>,
    /// Whether answers have the headers of quotas and of ignored parts.
    creates: bool,
}

impl Route {
    fn new(method: &'static str, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        let access = match path {
            _ if path.starts_with("/v1") => Access::Tenant,
            _ if path.starts_with("/admin") => Access::Admin,
            _ => Access::Public,
        };
        let errors = match access {
            Access::Public => vec![421],
            Access::Tenant => vec![401, 403, 421, 503],
            Access::Admin => vec![401, 403, 421],
        };
        Self { method, path, id, summary, access, query: vec![], body: None, answers: vec![], errors, creates: false }
    }

    fn body(mut self, schema: Value) -> Self {
        self.body = Some((schema, true));
        self.errors.extend([400, 408, 413, 415]);
        self
    }

    fn optional_body(mut self, schema: Value) -> Self {
        let schema = json!({"anyOf": [schema, {"type": "null"}]});
        self = self.body(schema.clone());
        self.body = Some((schema, false));
        self
    }

    fn query(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.query.extend(parameters);
        self.errors.push(400);
        self
    }

    fn answers(mut self, description: &'static str, content: Value) -> Self {
        self.answers.push((200, description, content));
        self
    }

    fn errors(mut self, statuses: &[u16]) -> Self {
        self.errors.extend(statuses);
        self
    }

    /// Marks a route that creates a generation.
    fn creates(mut self) -> Self {
        self.creates = true;
        self.errors(&[404, 409, 429, 500])
    }

    fn operation(self) -> Value {
        let names = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = names.map(
            |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}),
        );
        let parameters: Vec<Value> = in_path.chain(self.query).collect();
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        if self.creates {
            headers["x-caudal-ignored"] = json!({"$ref": "#/components/headers/Ignored"});
            for (name, component) in
                [("limit", "RateLimit"), ("remaining", "RateLimitRemaining"), ("reset", "RateLimitReset")]
            {
                for unit in ["requests", "tokens"] {
                    let header = json!({"$ref": format!("#/components/headers/{component}")});
                    headers[format!("x-ratelimit-{name}-{unit}")] = header;
                }
            }
        }
        let mut responses = Map::new();
        for (status, description, content) in self.answers {
            let answer = json!({"description": description, "headers": headers, "content": content});
            responses.insert(status.to_string(), answer);
        }
        for (status, _) in ERRORS.iter().filter(|(status, _)| self.errors.contains(status)) {
            responses
                .entry(status.to_string())
                .or_insert_with(|| json!({"$ref": format!("#/components/responses/Error{status}")}));
        }
        let security = match self.access {
            Access::Public => json!([]),
            Access::Tenant => json!([{}, {"bearer": []}]),
            Access::Admin => json!([{"adminKey": []}]),
        };
        let mut operation = json!({"operationId": self.id, "summary": self.summary, "security": security});
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some((schema, required)) = self.body {
            operation["requestBody"] = json!({"required": required, "content": content(schema)});
        }
        operation["responses"] = Value::Object(responses);
        operation
    }
}

fn content(schema: Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

/// Returns the content of a route that answers JSON or server-sent events; each event is a JSON object of the schema `event`.
fn with_stream(schema: Value, event: Value) -> Value {
    let stream = json!({"schema": {"type": "string"}, "x-event-schema": event});
    json!({"application/json": {"schema": schema}, "text/event-stream": stream})
}

fn parameter(name: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "schema": schema})
}

/// Returns the parameters of every list.
fn page() -> [Value; 4] {
    [
        parameter("after", json!({"type": "string", "description": "The last id of the previous page."})),
        parameter("limit", json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20})),
        parameter("order", json!({"type": "string", "enum": ["asc", "desc"], "default": "desc"})),
        include(),
    ]
}

fn include() -> Value {
    parameter("include", json!({"type": "array", "items": {"type": "string", "enum": INCLUDABLE}}))
}

/// Returns every route, in the order of the document.
fn table(schemas: &mut Schemas) -> Vec<Route> {
    schemas.written::<Deleted<'static>>();
    schemas.written::<ErrorAnswer<'static>>();
    [responses(schemas), models(schemas), conversations(schemas), prompts(schemas), operations(schemas)].concat()
}

/// Returns the routes of responses, chat completions and client secrets.
fn responses(schemas: &mut Schemas) -> Vec<Route> {
    let route = Route::new;
    let response = schemas.written::<Response>();
    let event = response_events(schemas);
    let create = schemas.read::<Body>();
    let items = schemas.written::<List<ListedItem>>();
    let (completion, chunk) = (schemas.written::<Completion>(), schemas.written::<Chunk>());
    vec![
        route("get", "/v1/responses", "connect", "Opens a WebSocket; /asyncapi.json has its events")
            .errors(&[400, 426]),
        route("post", "/v1/responses", "createResponse", "Creates a response")
            .body(create.clone())
            .answers("The ended response, or its events", with_stream(response.clone(), event.clone()))
            .creates(),
        route("post", "/v1/responses/compact", "compactResponse", "Sums up a conversation")
            .body(json!({"allOf": [create, {"not": given("conversation")}]}))
            .answers("An item that a later input can begin with", content(schemas.written::<Compacted>()))
            .creates(),
        route("post", "/v1/responses/input_tokens", "countInputTokens", "Counts the tokens of a prompt")
            .body(schemas.read::<Body>())
            .answers("How many tokens the prompt has", content(schemas.written::<InputTokens>()))
            .errors(&[404, 409]),
        route("get", "/v1/responses/{id}", "retrieveResponse", "Reads a response, or follows it")
            .query([
                parameter("stream", json!({"type": "boolean"})),
                parameter("starting_after", json!({"type": "integer", "minimum": 0})),
                parameter("include_obfuscation", json!({"type": "boolean"})),
                include(),
            ])
            .answers("The response in its current state, or its events", with_stream(response.clone(), event))
            .errors(&[404, 410]),
        route("delete", "/v1/responses/{id}", "deleteResponse", "Cancels a response and deletes it")
            .answers("It is gone", content(deleted()))
            .errors(&[404]),
        route("post", "/v1/responses/{id}/cancel", "cancelResponse", "Cancels a response")
            .answers("The response as it ended", content(response))
            .errors(&[404, 410]),
        route("get", "/v1/responses/{id}/input_items", "listInputItems", "Lists the input items of a response")
            .query(page())
            .answers("A page", content(items))
            .errors(&[404]),
        route("post", "/v1/chat/completions", "createChatCompletion", "Creates a chat completion")
            .body(schemas.read::<ChatBody>())
            .answers("The completion, or its chunks", with_stream(completion, chunk))
            .creates(),
        route("post", "/v1/client_secrets", "createClientSecret", "Makes a short-lived secret for a browser")
            .optional_body(schemas.read::<SecretBody>())
            .answers("The secret, which is shown only once", content(schemas.written::<ClientSecret>()))
            .errors(&[403, 404]),
    ]
}

fn models(schemas: &mut Schemas) -> Vec<Route> {
    let route = Route::new;
    let model = schemas.written::<ModelObject<'static>>();
    vec![
        route("get", "/v1/models", "listModels", "Lists the models, the default first")
            .answers("All models", content(schemas.written::<ModelList<'static>>())),
        route("get", "/v1/models/{id}", "retrieveModel", "Reads a model, by its id or an alias")
            .answers("The model", content(model))
            .errors(&[404]),
        {
            let mut file =
                route("get", "/v1/models/{id}/file", "readModelFile", "Reads a model's file, or a part of it")
                    .query([parameter(
                        "sha256",
                        json!({"type": "string", "description": "Only the file with this sum."}),
                    )])
                    .errors(&[404, 500]);
            let bytes = || json!({"application/octet-stream": {}});
            file.answers = vec![
                (200, "The file", bytes()),
                (206, "The bytes that `Range` names", bytes()),
                (304, "The file is what `If-None-Match` names", json!({})),
                (416, "The file has no such bytes", json!({})),
            ];
            file
        },
    ]
}

fn conversations(schemas: &mut Schemas) -> Vec<Route> {
    let route = Route::new;
    let conversation = schemas.written::<ConversationObject>();
    let conversations = schemas.written::<List<ConversationObject>>();
    let items = schemas.written::<List<ListedItem>>();
    let item = schemas.written::<ListedItem>();
    vec![
        route("get", "/v1/conversations", "listConversations", "Lists the tenant's conversations, sorted by age")
            .query(page())
            .answers("A page", content(conversations)),
        route("post", "/v1/conversations", "createConversation", "Creates a conversation")
            .optional_body(schemas.read::<CreateBody>())
            .answers("The conversation", content(conversation.clone()))
            .errors(&[404]),
        route("get", "/v1/conversations/{id}", "retrieveConversation", "Reads a conversation")
            .answers("The conversation", content(conversation.clone()))
            .errors(&[404]),
        route("post", "/v1/conversations/{id}", "updateConversation", "Replaces a conversation's metadata")
            .body(schemas.read::<UpdateBody>())
            .answers("The conversation", content(conversation.clone()))
            .errors(&[404]),
        route("delete", "/v1/conversations/{id}", "deleteConversation", "Deletes a conversation and its items")
            .answers("It is gone", content(deleted()))
            .errors(&[404]),
        route(
            "post",
            "/v1/conversations/{id}/fork",
            "forkConversation",
            "Copies a conversation, completely or up to an item",
        )
        .optional_body(schemas.read::<ForkBody>())
        .answers("The copy", content(conversation.clone()))
        .errors(&[404]),
        route("get", "/v1/conversations/{id}/items", "listItems", "Lists a conversation's items")
            .query(page())
            .answers("A page", content(items.clone()))
            .errors(&[404]),
        route("post", "/v1/conversations/{id}/items", "createItems", "Appends items, all or none")
            .body(schemas.read::<AppendBody>())
            .answers("The items that were appended", content(items))
            .errors(&[404]),
        route("get", "/v1/conversations/{id}/items/{item}", "retrieveItem", "Reads an item")
            .answers("The item", content(item))
            .errors(&[404]),
        route("delete", "/v1/conversations/{id}/items/{item}", "deleteItem", "Deletes an item")
            .answers("The conversation", content(conversation))
            .errors(&[404]),
    ]
}

fn prompts(schemas: &mut Schemas) -> Vec<Route> {
    let route = Route::new;
    let prompt = schemas.written::<PromptObject>();
    let prompts = schemas.written::<List<PromptObject>>();
    vec![
        route("get", "/v1/prompts", "listPrompts", "Lists the latest versions of stored prompts, sorted by age")
            .query(page())
            .answers("A page", content(prompts)),
        route("post", "/v1/prompts", "createPrompt", "Stores a prompt, or the next version of one")
            .body(schemas.read::<PutBody>())
            .answers("The version", content(prompt.clone())),
        route("get", "/v1/prompts/{id}", "retrievePrompt", "Reads a stored prompt")
            .query([parameter("version", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}))])
            .answers("The requested version, or the latest", content(prompt))
            .errors(&[404]),
        route("delete", "/v1/prompts/{id}", "deletePrompt", "Deletes a prompt and all its versions")
            .answers("It is gone", content(deleted()))
            .errors(&[404]),
    ]
}

/// Returns the routes for operators and tools.
fn operations(schemas: &mut Schemas) -> Vec<Route> {
    let route = Route::new;
    let readiness = schemas.written::<Readiness<'static>>();
    let text = || json!({"text/plain": {"schema": {"type": "string"}}});
    vec![
        route("post", "/admin/models/{id}/reload", "reloadModel", "Loads a model's files again")
            .answers("The model before and after", content(schemas.written::<ReloadReport>()))
            .errors(&[404, 409, 500]),
        route("get", "/admin/cache", "readCache", "Reads the counts of the prompt cache")
            .answers("Counts", content(schemas.written::<PromptCacheReport>()))
            .errors(&[503]),
        route("get", "/admin/metrics", "readMetrics", "Reads the metrics of this replica, for Prometheus").answers(
            "OpenMetrics text",
            json!({"application/openmetrics-text; version=1.0.0; charset=utf-8": {"schema": {"type": "string"}}}),
        ),
        route("get", "/healthz", "isAlive", "Whether the process lives").answers("It lives", text()),
        {
            let mut ready = route("get", "/readyz", "isReady", "Whether every model is loaded");
            ready.answers = vec![
                (200, "The server accepts requests", content(readiness.clone())),
                (503, "It takes none yet, or no more", content(readiness)),
            ];
            ready
        },
        route("get", "/openapi.json", "readOpenApi", "This document")
            .answers("An OpenAPI document", content(json!({"type": "object"}))),
        route("get", "/asyncapi.json", "readAsyncApi", "The events of a WebSocket")
            .answers("An AsyncAPI document", content(json!({"type": "object"}))),
    ]
}

fn deleted() -> Value {
    super::schemas::reference("Deleted")
}

/// Returns the methods and paths of the document.
pub fn routes() -> Vec<(&'static str, &'static str)> {
    table(&mut Schemas::new()).iter().map(|route| (route.method, route.path)).collect()
}

pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in table(&mut schemas) {
        let (method, path) = (route.method, route.path);
        let operations = paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = route.operation();
    }
    // The answer to an upgrade has a description only.
    paths["/v1/responses"]["get"]["responses"]["101"] = json!({"description": "The connection is a WebSocket now."});
    let mut responses = Map::new();
    for (status, description) in ERRORS {
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        match status {
            401 => headers["www-authenticate"] = json!({"schema": {"type": "string"}, "required": true}),
            429 | 503 => headers["retry-after"] = json!({"$ref": "#/components/headers/RetryAfter"}),
            _ => {}
        }
        let schema = super::schemas::reference("ErrorAnswer");
        let error = json!({"description": description, "headers": headers, "content": content(schema)});
        responses.insert(format!("Error{status}"), error);
    }
    let header = |description: &str, schema: Value| json!({"description": description, "schema": schema});
    let (text, number) = (json!({"type": "string"}), json!({"type": "integer", "minimum": 0}));
    schemas.finish(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Caudal",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The Responses API over HTTP. HEAD is answered wherever GET is; another method than a path \
                takes is answered 405 with `Allow`. A member that is null is absent. /asyncapi.json has the events \
                of a WebSocket.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "responses": responses,
            "headers": {
                "RequestId": header("Names the request.", text.clone()),
                "Ignored": header("The ignored parts of the request, separated by commas.", text.clone()),
                "RetryAfter": header("Seconds to wait before a retry.", number.clone()),
                "RateLimit": header("The quota of the tenant or key per minute.", number.clone()),
                "RateLimitRemaining": header("What is left of it.", number),
                "RateLimitReset": header("Time until the quota is full again, such as 120ms.", text),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Needed with auth.mode = \"keys\"."},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "auth.admin_key"},
            },
        },
    }))
}
