//! The whole of lighter, as people and pipelines type it. One program: what is compiled once, and a cluster that is started
//! once, serves all of it.

mod access;
mod build;
mod buildkit;
mod cache;
mod check;
mod choices;
mod clients;
mod commands;
mod contexts;
mod contract;
mod deep;
mod deploy;
mod desk;
mod docs;
mod environments;
mod foreign;
mod foresight;
mod fuzz;
mod git_ssh;
mod images;
mod install;
mod ladder;
mod local_store;
mod newcomer;
mod pipeline;
mod rollout;
mod ship;
mod shipped;
mod stages;
mod systems;
mod transfers;
mod troubles;
mod upkeep;
mod workbench;
