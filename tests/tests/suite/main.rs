//! Caudal's behaviour on the scripted engine. One binary, so that the tests run side by side, each on a server of its own.

mod admission;
mod auth;
mod cancel;
mod chains;
mod chat;
mod cluster;
mod errors;
mod formats;
mod http;
mod lanes;
mod limits;
mod models;
mod order;
mod orphans;
mod reasoning;
mod redis;
mod resume;
mod settings;
mod shutdown;
mod slow_client;
mod store;
mod tools;
mod truncation;
mod waits;
