//! What needs no process of its own: parsing, copying, layers, whole builds without RUN. What a RUN needs is in `sandbox`
//! and `run`; `cases` are the Dockerfiles of `fixtures/cases`.

mod build;
mod copy;
mod corpus;
mod foreign;
mod hostile;
mod layer;
mod overlay;
