//! registry token: tokens for programs, in the data directory of a registry that may be running.

use std::path::PathBuf;

use jiff::{Timestamp, ToSpan};
use registry::access::{NewRobot, Robot, RobotError, RobotFile};

use super::serve;
use crate::args::{StoreArgs, TokenCommand, TokenCreateArgs, TokenFileArgs, TokenRevokeArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{out, tell};

pub fn run(command: &TokenCommand) -> Outcome<()> {
    match command {
        TokenCommand::Create(args) => create(args),
        TokenCommand::List(args) => list(args),
        TokenCommand::Revoke(args) => revoke(args),
    }
}

fn create(args: &TokenCreateArgs) -> Outcome<()> {
    let data = data(&args.file)?;
    let now = Timestamp::now();
    let expires = match args.expires {
        Some(time) => Some(after(now, time.duration())?),
        None => None,
    };
    let mut repositories = args.repository.clone();
    if repositories.is_empty() && !args.allow.is_empty() {
        repositories.push("**".parse().expect("this is a pattern"));
    }
    let new = NewRobot { name: args.name.clone(), expires, repositories, rights: args.allow.clone() };
    let (robot, token) = RobotFile::of(&data).create(new, now).map_err(|error| failed(&error))?;
    tell(&format!("made the token {} for robot:{}; it is not shown again", robot.id, robot.name));
    out(&token);
    Ok(())
}

fn after(now: Timestamp, time: std::time::Duration) -> Outcome<Timestamp> {
    let seconds = i64::try_from(time.as_secs()).ok().and_then(|seconds| now.checked_add(seconds.seconds()).ok());
    seconds.ok_or_else(|| Failure::new(Exit::Usage, "--expires is too far away; leave it out for never"))
}

fn list(args: &TokenFileArgs) -> Outcome<()> {
    let robots = RobotFile::of(&data(args)?).list().map_err(|error| failed(&error))?;
    let now = Timestamp::now();
    let lines: Vec<String> = robots.iter().map(|robot| line(robot, now)).collect();
    if lines.is_empty() {
        tell("there are no robot tokens");
        return Ok(());
    }
    out(&lines.join("\n"));
    Ok(())
}

fn line(robot: &Robot, now: Timestamp) -> String {
    let words = |words: Vec<String>| if words.is_empty() { "-".to_owned() } else { words.join(",") };
    let end = match robot.expires {
        None => "never".to_owned(),
        Some(end) if robot.is_expired(now) => format!("{end} (expired)"),
        Some(end) => end.to_string(),
    };
    let rights = words(robot.rights.iter().map(ToString::to_string).collect());
    let repositories = words(robot.repositories.iter().map(ToString::to_string).collect());
    format!("{}  {}  {rights}  {repositories}  {end}", robot.id, robot.name)
}

fn revoke(args: &TokenRevokeArgs) -> Outcome<()> {
    let gone = RobotFile::of(&data(&args.file)?).revoke(&args.which).map_err(|error| failed(&error))?;
    for robot in gone {
        tell(&format!("ended the token {} of robot:{}", robot.id, robot.name));
    }
    Ok(())
}

fn data(args: &TokenFileArgs) -> Outcome<PathBuf> {
    match &args.data {
        Some(data) => Ok(data.clone()),
        None => serve::embedded_data(&StoreArgs { data: settings::variable("LIGHTER_DATA").map(PathBuf::from) }),
    }
}

pub fn failed(error: &RobotError) -> Failure {
    let exit = match error {
        RobotError::Name(_) | RobotError::Claims(_) => Exit::Usage,
        RobotError::Unknown(_) => Exit::NoInput,
        RobotError::Read(_) | RobotError::Write { .. } => Exit::Disk,
    };
    Failure::because(exit, "the robot tokens could not be read or changed", error)
}
