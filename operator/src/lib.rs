//! Testimony's operator: custom resources, policy compiler, admission webhook, policy server, status.
//!
//! Pure modules hold the decisions: [`api`], [`compile`], [`index`], [`inject`]. They know neither sockets nor
//! clocks. The others are thin shells around them.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod apiserver;
pub mod certs;
pub mod compile;
pub mod controller;
pub mod index;
pub mod inject;
pub mod metrics;
pub mod pages;
pub mod plain;
pub mod policy_server;
pub mod selftest;
pub mod serve;
pub mod settings;
pub mod state;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod traces;
mod trust;
pub mod watches;
pub mod webhook;
pub mod witness;
