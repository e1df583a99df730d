//! The HTTP servers: the middleware around their routes, and the limits of their connections.

use std::{net::TcpListener, time::Duration};

use actix_web::{App, HttpServer, dev::Server, middleware::from_fn, rt, web};

use super::{
    door,
    handlers::page,
    reply,
    resource::{get, resource, unknown},
    state::Edge,
    v1,
};

/// The bound sockets.
pub struct Listeners {
    pub public: TcpListener,
    /// The listener of `/admin`, if `/admin` has its own address.
    pub admin: Option<TcpListener>,
}

/// Serves on bound listeners. Each future ends after `stop` on its handle.
pub fn serve(listeners: Listeners, edge: Edge) -> std::io::Result<Vec<Server>> {
    let edge = web::Data::new(edge);
    let apart = listeners.admin.is_some();
    let admin = listeners.admin.map(|listener| serve_admin(listener, edge.clone())).transpose()?;
    let public = serve_public(listeners.public, edge, apart)?;
    Ok([public].into_iter().chain(admin).collect())
}

/// Serves `/admin` and the probes on their own address.
fn serve_admin(listener: TcpListener, edge: web::Data<Edge>) -> std::io::Result<Server> {
    let handshake = Duration::from_millis(edge.settings.server.handshake_timeout_ms);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(edge.clone())
            .wrap(from_fn(door::pass))
            .wrap(from_fn(reply::finish))
            .service(web::scope("/admin").configure(v1::admin_routes))
            .configure(v1::probe_routes)
            .default_service(web::to(unknown))
    });
    let server = server.workers(1).client_request_timeout(handshake).shutdown_timeout(5).disable_signals();
    Ok(server.listen(listener)?.run())
}

/// Serves the public routes. `apart`: `/admin` has its own address.
fn serve_public(listener: TcpListener, edge: web::Data<Edge>, apart: bool) -> std::io::Result<Server> {
    let settings = edge.settings.server.clone();
    let chat_dir = page::folder(&settings);
    let workers = match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let json_limit = settings.max_message_bytes;
    let server = HttpServer::new(move || {
        // actix calls this closure once on each worker thread.
        rt::spawn(edge.generations.metrics.watch_lag("connections"));
        let app = App::new()
            .app_data(edge.clone())
            .app_data(web::PayloadConfig::new(json_limit))
            .wrap(from_fn(door::pass))
            .wrap(from_fn(reply::finish))
            .service(v1::v1(edge.clone()))
            .service(web::scope("/admin").configure(if apart { v1::no_routes } else { v1::admin_routes }))
            .configure(v1::probe_routes)
            .configure(v1::document_routes);
        match &chat_dir {
            Some(dir) => app.service(page::scope(dir)),
            None => app.service(resource("/", [get(page::missing)])).default_service(web::to(unknown)),
        }
    });
    let server = server
        .workers(workers)
        // Each token is sent in its own packet, without waiting for the next one.
        .tcp_nodelay(true)
        // Otherwise the server does not notice that a client has left before a slow answer.
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

/// The kernel drops a peer that acknowledges no byte for this long, even in the middle of a write.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

fn abandon_dead_peers(io: &dyn std::any::Any) {
    #[cfg(target_os = "linux")]
    if let Some(stream) = io.downcast_ref::<actix_web::rt::net::TcpStream>() {
        // If the option cannot be set, a dead connection only lives longer.
        let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(PEER_TIMEOUT));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = io;
}
