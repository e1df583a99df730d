//! The edge: actix, sockets, HTTP. Turns what arrives into calls on [`Generations`] and what is followed into frames and
//! SSE events. The only module that names actix; decides nothing about generations.

mod admin;
mod api;
mod auth;
mod chat;
mod client_secrets;
mod compact;
mod contract;
mod conversations;
mod door;
mod grants;
mod headers;
mod http;
mod input_tokens;
mod model_file;
mod models;
mod page;
mod paging;
mod peer;
mod prompts;
mod query;
mod reply;
mod sse;
mod traced;
mod v1;
pub mod waiting;
mod ws;

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, middleware::from_fn, rt, web};
use tokio::sync::watch;

use crate::{
    access::Access,
    generation::{Generations, bounded, budget::Budgets},
    settings::Settings,
    wire::object::{LoadedModel, Readiness},
};
use auth::Authenticator;
use door::Door;
use model_file::Sums;

/// Where the process stands; connections watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    Serving,
    /// Running streams go on, new ones are refused.
    Draining,
    /// Sockets close when their streams have ended.
    Closing,
    /// Sockets close at once: their streams go on elsewhere.
    HandedOver,
}

/// What every handler shares.
pub struct Edge {
    pub generations: Arc<Generations>,
    pub settings: Settings,
    pub phase: watch::Receiver<Phase>,
    auth: Authenticator,
    door: Door,
    /// Open sockets of each client address.
    sockets: Budgets,
    sums: Sums,
}

impl Edge {
    pub fn new(
        generations: Arc<Generations>,
        settings: Settings,
        phase: watch::Receiver<Phase>,
        access: Arc<Access>,
    ) -> Self {
        let (auth, door) = (Authenticator::new(&settings, access), Door::new(&settings));
        let sockets = Budgets::new(bounded(settings.server.sockets_per_address));
        Self { generations, settings, phase, auth, door, sockets, sums: Sums::default() }
    }
}

/// The bound sockets.
pub struct Listeners {
    pub public: TcpListener,
    /// Where `/admin` is served, if it has an address of its own.
    pub admin: Option<TcpListener>,
}

/// Serves on bound listeners. The futures end after their handles' `stop`.
pub fn serve(listeners: Listeners, edge: Edge) -> std::io::Result<Vec<Server>> {
    let edge = web::Data::new(edge);
    let apart = listeners.admin.is_some();
    let admin = listeners.admin.map(|listener| serve_admin(listener, edge.clone())).transpose()?;
    let public = serve_public(listeners.public, edge, apart)?;
    Ok([public].into_iter().chain(admin).collect())
}

/// Serves `/admin` and the probes, on an address of their own.
fn serve_admin(listener: TcpListener, edge: web::Data<Edge>) -> std::io::Result<Server> {
    let handshake = Duration::from_millis(edge.settings.server.handshake_timeout_ms);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(edge.clone())
            .wrap(from_fn(door::pass))
            .wrap(from_fn(reply::finish))
            .service(web::scope("/admin").configure(v1::admin_routes))
            .service(v1::resource("/healthz", [v1::get(healthy)]))
            .service(v1::resource("/readyz", [v1::get(ready)]))
            .default_service(web::to(v1::unknown))
    });
    let server = server.workers(1).client_request_timeout(handshake).shutdown_timeout(5).disable_signals();
    Ok(server.listen(listener)?.run())
}

/// `apart`: `/admin` is elsewhere.
fn serve_public(listener: TcpListener, edge: web::Data<Edge>, apart: bool) -> std::io::Result<Server> {
    let settings = edge.settings.server.clone();
    let chat_dir = page::folder(&settings);
    let workers = match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let json_limit = settings.max_message_bytes;
    let server = HttpServer::new(move || {
        // Called once on each thread that serves connections.
        rt::spawn(edge.generations.metrics.watch_lag("connections"));
        let app = App::new()
            .app_data(edge.clone())
            .app_data(web::PayloadConfig::new(json_limit))
            .wrap(from_fn(door::pass))
            .wrap(from_fn(reply::finish))
            .service(v1::scope(edge.clone()))
            .service(web::scope("/admin").configure(if apart { v1::no_routes } else { v1::admin_routes }))
            .service(v1::resource("/healthz", [v1::get(healthy)]))
            .service(v1::resource("/readyz", [v1::get(ready)]))
            .service(v1::resource("/openapi.json", [v1::get(contract::openapi)]))
            .service(v1::resource("/asyncapi.json", [v1::get(contract::asyncapi)]));
        match &chat_dir {
            Some(dir) => app.service(page::scope(dir)),
            None => app.service(v1::resource("/", [v1::get(page::missing)])).default_service(web::to(v1::unknown)),
        }
    });
    let server = server
        .workers(workers)
        // A token is a packet: it must not wait for the next one.
        .tcp_nodelay(true)
        // A client that hangs up on an answer that takes long is not noticed otherwise.
        .h1_allow_half_closed(false)
        .on_connect(|io, _| abandon_dead_peers(io))
        .max_connections(settings.max_connections)
        .client_request_timeout(Duration::from_millis(settings.handshake_timeout_ms))
        .keep_alive(Duration::from_secs(75))
        .shutdown_timeout(5)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

/// A peer that takes no byte for this long is dropped by the kernel, even in the middle of a write.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

fn abandon_dead_peers(io: &dyn std::any::Any) {
    #[cfg(target_os = "linux")]
    if let Some(stream) = io.downcast_ref::<actix_web::rt::net::TcpStream>() {
        // Without it the connection only lives longer.
        let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(PEER_TIMEOUT));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = io;
}

/// 200 as long as the process lives.
async fn healthy() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// 200 once every model is loaded; those that still load are told.
async fn ready(edge: web::Data<Edge>) -> HttpResponse {
    let models = edge.generations.engine().status();
    let models = models.into_iter().map(|model| LoadedModel { id: model.id, loaded: model.loaded }).collect();
    match edge.generations.ready() {
        Ok(()) => HttpResponse::Ok().json(Readiness { status: "ready", models }),
        Err(status) => HttpResponse::ServiceUnavailable().json(Readiness { status, models }),
    }
}
