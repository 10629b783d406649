//! A live table of rollouts on a terminal: one row per workload that changes in place, and above it the lines
//! that stay. What it says is made by pure functions; only `show` and `leave` write.

use std::io::Write;

use deployer::{Event, ObjectName};

use super::deploy_report;

/// Widest row, in characters: a row that the terminal breaks could not be taken back.
const WIDTH: usize = 100;

/// The rows that are drawn, in the order in which they came.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(String, String)>,
    drawn: usize,
}

impl Table {
    /// Draws what an event changes.
    pub fn show(&mut self, event: &Event) {
        let text = self.update(event);
        // Nobody is left to be told if the terminal is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Leaves the rows where they are; the next ones begin below.
    pub fn leave(&mut self) {
        *self = Table::default();
    }

    /// The bytes that bring the terminal up to date.
    fn update(&mut self, event: &Event) -> String {
        let stays = match event {
            Event::Progress { object, waiting } => self.set(object, &waiting.to_string()),
            Event::Ended { object, end } => {
                let first = end.to_string().lines().next().unwrap_or_default().to_owned();
                self.set(object, &first)
            }
            Event::Undoing { object, .. } => {
                self.set(object, "going back");
                deploy_report::text(event)
            }
            Event::Trouble { .. } | Event::Note { .. } => deploy_report::text(event),
        };
        let mut text = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        if let Some(line) = stays {
            text += &format!("{line}\n");
        }
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, state) in &self.rows {
            let row: String = format!("{name:width$}  {state}").chars().take(WIDTH).collect();
            text += &format!("{row}\n");
        }
        self.drawn = self.rows.len();
        text
    }

    fn set(&mut self, object: &ObjectName, state: &str) -> Option<String> {
        let name = object.short();
        match self.rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, old)) => state.clone_into(old),
            None => self.rows.push((name, state.to_owned())),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deployer::{Resource, Waiting};

    fn object(name: &str) -> ObjectName {
        let resource = Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            namespaced: true,
            image_path: None,
        };
        ObjectName::new(resource, "demo", name)
    }

    #[test]
    fn rows_change_in_place_and_troubles_stay_above() {
        let mut table = Table::default();
        let progress = |name: &str| Event::Progress { object: object(name), waiting: Waiting::Observed };
        assert_eq!(table.update(&progress("a")), "deployment/a  the controller has not seen the change yet\n");
        let two = table.update(&progress("web"));
        assert!(two.starts_with("\x1b[1A\x1b[Jdeployment/a    the"), "{two:?}");
        let note = table.update(&Event::Note { text: "interrupted".into() });
        assert!(note.starts_with("\x1b[2A\x1b[Jinterrupted\ndeployment/a"), "{note:?}");
        table.leave();
        assert!(!table.update(&progress("b")).contains('\x1b'));
    }
}
