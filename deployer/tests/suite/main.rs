//! Rollouts on a real API server and controller manager, one for all of these tests; and on servers that the tests play.

mod apply;
mod chaos;
mod history;
mod rollout;
mod scripted;
mod stage;
mod undo;
mod wide;
mod wire;
