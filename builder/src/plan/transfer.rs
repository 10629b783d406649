//! COPY and ADD: their words expanded, their destination made absolute, their flags checked.

use super::outline::{self, Origin};
use super::stage::Planner;
use super::{Action, CopyStep, Inline, Problem};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{Add, Copy, Instruction, Node, Transfer};
use crate::ignore::{self, Patterns};

impl Planner<'_> {
    pub(super) fn copy(&mut self, node: &Node<Instruction>, copy: &Copy) -> Result<(), Problem> {
        let from = match &copy.from {
            Some(name) => outline::origin(self.file, self.options, self.id, name)?,
            None => Origin::Context,
        };
        let mut step = self.transfer(&copy.transfer, from)?;
        step.parents = copy.parents;
        for source in &step.sources {
            match remote(source) {
                Some(Remote::Url) => return Err(Problem::RemoteCopy("URL")),
                Some(Remote::Git) => return Err(Problem::RemoteCopy("git ref")),
                None => {}
            }
        }
        self.transfer_step(node, &copy.transfer, step)
    }

    pub(super) fn add(&mut self, node: &Node<Instruction>, add: &Add) -> Result<(), Problem> {
        let mut step = self.transfer(&add.transfer, Origin::Context)?;
        step.add = true;
        step.unpack = add.unpack.unwrap_or(true);
        let unsupported = |what: &str| Err(Problem::Unsupported { what: what.to_owned() });
        if add.checksum.is_some() {
            return match step.sources.as_slice() {
                [source] if remote(source).is_some() => unsupported("ADD --checksum"),
                _ => Err(Problem::Checksum),
            };
        }
        for source in &step.sources {
            match remote(source) {
                Some(Remote::Url) => return unsupported("ADD of a URL"),
                Some(Remote::Git) => return unsupported("ADD of a git repository"),
                None => {}
            }
        }
        self.transfer_step(node, &add.transfer, step)
    }

    fn transfer(&self, transfer: &Transfer, from: Origin) -> Result<CopyStep, Problem> {
        let expand = |text: &String| self.expand(text);
        let filled = |text: &Option<String>| -> Result<Option<String>, Problem> {
            Ok(text.as_ref().map(expand).transpose()?.filter(|text| !text.is_empty()))
        };
        let inline = transfer.heredocs.iter().map(|heredoc| {
            let text = heredoc.text();
            let text = if heredoc.expand { self.scope().expand(Style::heredoc(), &text)? } else { text };
            Ok(Inline { name: heredoc.name.clone(), text })
        });
        let chmod = filled(&transfer.chmod)?;
        check_chmod(chmod.as_deref())?;
        Patterns::new(transfer.excludes.iter().map(String::as_str)).map_err(Problem::Exclude)?;
        Ok(CopyStep {
            add: false,
            from,
            sources: transfer.sources.iter().map(expand).collect::<Result<_, Problem>>()?,
            inline: inline.collect::<Result<_, Problem>>()?,
            destination: self.expand(&transfer.destination)?,
            chown: filled(&transfer.chown)?,
            chmod,
            link: transfer.link,
            parents: false,
            excludes: transfer.excludes.clone(),
            unpack: false,
        })
    }

    /// Writes the history as BuildKit does, with the destination still as it was written.
    fn transfer_step(
        &mut self,
        node: &Node<Instruction>,
        transfer: &Transfer,
        mut step: CopyStep,
    ) -> Result<(), Problem> {
        let mut words = vec![if step.add { "ADD" } else { "COPY" }.to_owned()];
        words.extend(step.parents.then(|| "--parents".to_owned()));
        words.extend(step.chown.iter().map(|chown| format!("--chown={chown}")));
        words.extend(step.chmod.iter().map(|chmod| format!("--chmod={chmod}")));
        words.extend(step.sources.iter().cloned());
        words.extend(transfer.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
        words.push(step.destination.clone());
        step.destination = absolute(&self.plan.config.run.working_dir, &step.destination, true);
        self.step(format!("{} # buildkit", words.join(" ")), node.span, &node.text, Action::Copy(step));
        Ok(())
    }
}

/// An octal mode must be one; a symbolic mode is read where it is applied.
fn check_chmod(chmod: Option<&str>) -> Result<(), Problem> {
    let Some(chmod) = chmod.filter(|chmod| chmod.starts_with(|first: char| first.is_ascii_digit())) else {
        return Ok(());
    };
    match u32::from_str_radix(chmod, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(()),
        _ => Err(Problem::Chmod(chmod.to_owned())),
    }
}

enum Remote {
    Url,
    Git,
}

/// Whether a source is no file: a URL or a git repository.
fn remote(source: &str) -> Option<Remote> {
    let is_http = source.starts_with("http://") || source.starts_with("https://");
    let path = source.split(['#', '?']).next().unwrap_or_default();
    let is_git = source.starts_with("git@") && source.contains(':')
        || ["git://", "ssh://"].iter().any(|scheme| source.starts_with(scheme))
        || is_http && path.ends_with(".git");
    match (is_git, is_http) {
        (true, _) => Some(Remote::Git),
        (false, true) => Some(Remote::Url),
        _ => None,
    }
}

/// A path made absolute and cleaned. A slash or `/.` at the end means "into", and can be kept.
pub(super) fn absolute(directory: &str, path: &str, keep_end: bool) -> String {
    let path = if path.is_empty() || path == "." { "./" } else { path };
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{directory}/{path}") };
    let mut clean = ignore::clean(&joined).into_owned();
    if keep_end && clean != "/" && (path.ends_with('/') || path.ends_with("/.")) {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for (directory, path, expected) in [
            ("/w", "x", "/w/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "x/.", "/w/x/"),
            ("/w", "../x", "/x"),
            ("/w", "/a//b/../c", "/a/c"),
            ("/", ".", "/"),
            ("", "x", "/x"),
            ("/w", "/../..", "/"),
        ] {
            assert_eq!(absolute(directory, path, true), expected, "{path} in {directory}");
        }
    }

    #[test]
    fn urls_and_repositories() {
        for source in ["http://x/y", "https://x/y.git#main:sub", "git@github.com:x/y", "ssh://git@x/y"] {
            assert!(remote(source).is_some(), "{source}");
        }
        for source in ["x", "http", "git", "a.git", "github.com/x"] {
            assert!(remote(source).is_none(), "{source}");
        }
    }
}
