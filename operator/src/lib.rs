//! Testimony's operator.
