#![doc = include_str!("../README.md")]

pub mod access;
pub mod app;
pub mod clock;
pub mod cluster;
pub mod dialect;
pub mod edge;
pub mod engine;
pub mod generation;
pub mod limits;
mod loading;
pub mod metrics;
pub mod model;
pub mod random;
pub mod render;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod wire;
