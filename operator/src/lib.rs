//! Testimony's operator: custom resources, policy compiler, admission webhook, policy server, status.
//!
//! Pure modules hold the decisions: [`api`], [`compile`], [`index`], [`inject`]. They know neither sockets nor clocks. The
//! others are thin shells around them.
#![forbid(unsafe_code)]

pub mod api;
pub mod compile;
pub mod index;
pub mod inject;
