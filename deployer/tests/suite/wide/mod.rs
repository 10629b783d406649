//! What the deployer can do beyond rolling an image out: other kinds, guards, sets, rights, checks before a
//! deploy. On a real API server and controller manager.

mod doors;
mod guards;
mod manifests;
mod pins;
mod preflight;
mod watches;

use deployer::Policy;
use std::time::Duration;

fn patient() -> Policy {
    Policy { timeout: Duration::from_secs(120), ..Policy::default() }
}
