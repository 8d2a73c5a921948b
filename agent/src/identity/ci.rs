//! The CI job that a process runs in, by the variables that CI systems document.

use std::collections::BTreeMap;

use super::Ci;

/// The documented variables of one CI system.
struct System {
    name: &'static str,
    /// The job runs in this system when this variable is set.
    marker: &'static str,
    project: &'static [&'static str],
    pipeline: &'static [&'static str],
    job: &'static [&'static str],
    run: &'static [&'static str],
    branch: &'static [&'static str],
    commit: &'static [&'static str],
    actor: &'static [&'static str],
    url: &'static [&'static str],
    /// Kept by name beside the fields above. None of them is a secret.
    more: &'static [&'static str],
}

const SYSTEMS: [System; 4] = [
    System {
        name: "github_actions",
        marker: "GITHUB_ACTIONS",
        project: &["GITHUB_REPOSITORY"],
        pipeline: &["GITHUB_WORKFLOW"],
        job: &["GITHUB_JOB"],
        run: &["GITHUB_RUN_ID"],
        branch: &["GITHUB_HEAD_REF", "GITHUB_REF_NAME"],
        commit: &["GITHUB_SHA"],
        actor: &["GITHUB_ACTOR"],
        url: &[],
        more: &["GITHUB_EVENT_NAME", "GITHUB_REF", "GITHUB_RUN_ATTEMPT", "GITHUB_SERVER_URL", "RUNNER_NAME"],
    },
    System {
        name: "gitlab",
        marker: "GITLAB_CI",
        project: &["CI_PROJECT_PATH"],
        pipeline: &["CI_PIPELINE_ID"],
        job: &["CI_JOB_NAME"],
        run: &["CI_JOB_ID"],
        branch: &["CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME"],
        commit: &["CI_COMMIT_SHA"],
        actor: &["GITLAB_USER_LOGIN"],
        url: &["CI_JOB_URL"],
        more: &["CI_ENVIRONMENT_NAME", "CI_JOB_STAGE", "CI_PIPELINE_SOURCE", "CI_RUNNER_ID", "CI_SERVER_URL"],
    },
    System {
        name: "buildkite",
        marker: "BUILDKITE",
        project: &["BUILDKITE_PIPELINE_SLUG"],
        pipeline: &["BUILDKITE_PIPELINE_NAME"],
        job: &["BUILDKITE_LABEL", "BUILDKITE_STEP_KEY"],
        run: &["BUILDKITE_BUILD_ID"],
        branch: &["BUILDKITE_BRANCH"],
        commit: &["BUILDKITE_COMMIT"],
        actor: &["BUILDKITE_BUILD_CREATOR", "BUILDKITE_BUILD_AUTHOR"],
        url: &["BUILDKITE_BUILD_URL"],
        more: &[
            "BUILDKITE_AGENT_NAME",
            "BUILDKITE_BUILD_NUMBER",
            "BUILDKITE_ORGANIZATION_SLUG",
            "BUILDKITE_SOURCE",
        ],
    },
    System {
        name: "jenkins",
        marker: "JENKINS_URL",
        project: &["JOB_NAME"],
        pipeline: &["JOB_BASE_NAME"],
        job: &["STAGE_NAME", "JOB_BASE_NAME"],
        run: &["BUILD_TAG", "BUILD_ID"],
        branch: &["CHANGE_BRANCH", "BRANCH_NAME", "GIT_BRANCH"],
        commit: &["GIT_COMMIT"],
        actor: &["BUILD_USER_ID", "CHANGE_AUTHOR"],
        url: &["BUILD_URL"],
        more: &["BUILD_NUMBER", "EXECUTOR_NUMBER", "NODE_NAME"],
    },
];

/// Longest value that is kept, in bytes.
const MAX_VALUE: usize = 512;

/// Finds the CI job in an environment as /proc gives it: NUL-separated `NAME=value`.
pub(super) fn from_environment(environment: &[u8]) -> Option<Ci> {
    let mut variables: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in environment.split(|byte| *byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        if let Some((name, value)) = entry.split_once('=') {
            // The first one counts, as for getenv().
            variables.entry(name).or_insert(value);
        }
    }
    let set = |name: &str| variables.get(name).copied().filter(|value| !value.is_empty());
    let system = SYSTEMS.iter().find(|system| set(system.marker).is_some_and(|v| v != "false"))?;
    let first = |names: &[&str]| names.iter().find_map(|name| set(name)).map(clip).unwrap_or_default();
    let mut ci = Ci {
        system: system.name.to_owned(),
        project: first(system.project),
        pipeline: first(system.pipeline),
        job: first(system.job),
        run: first(system.run),
        branch: first(system.branch),
        commit: first(system.commit),
        actor: first(system.actor),
        url: first(system.url),
        variables: BTreeMap::new(),
    };
    if ci.system == "github_actions"
        && let (Some(server), false) = (set("GITHUB_SERVER_URL"), ci.project.is_empty() || ci.run.is_empty())
    {
        ci.url = clip(&format!("{server}/{}/actions/runs/{}", ci.project, ci.run));
    }
    for name in system.more {
        if let Some(value) = set(name) {
            ci.variables.insert((*name).to_owned(), clip(value));
        }
    }
    Some(ci)
}

fn clip(value: &str) -> String {
    value
        .chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= MAX_VALUE).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[&str]) -> Vec<u8> {
        pairs.join("\0").into_bytes()
    }

    #[test]
    fn each_system_is_recognised_by_its_own_variables() {
        let ci = from_environment(&environment(&[
            "HOME=/root",
            "GITHUB_ACTIONS=true",
            "GITHUB_REPOSITORY=shop/api",
            "GITHUB_REF_NAME=main",
            "GITHUB_RUN_ID=77",
            "GITHUB_SERVER_URL=https://github.com",
            "GITHUB_TOKEN=secret",
        ]))
        .unwrap();
        assert_eq!((ci.system.as_str(), ci.branch.as_str()), ("github_actions", "main"));
        assert_eq!(ci.url, "https://github.com/shop/api/actions/runs/77");
        assert!(!format!("{ci:?}").contains("secret"));

        let gitlab = from_environment(&environment(&["GITLAB_CI=true", "CI_COMMIT_REF_NAME=dev"])).unwrap();
        assert_eq!((gitlab.system.as_str(), gitlab.branch.as_str()), ("gitlab", "dev"));
        let jenkins = from_environment(&environment(&["JENKINS_URL=http://j/", "BRANCH_NAME=x"])).unwrap();
        assert_eq!((jenkins.system.as_str(), jenkins.branch.as_str()), ("jenkins", "x"));
        let buildkite = from_environment(&environment(&["BUILDKITE=true", "BUILDKITE_BRANCH=y"])).unwrap();
        assert_eq!((buildkite.system.as_str(), buildkite.branch.as_str()), ("buildkite", "y"));
        assert_eq!(from_environment(b"HOME=/root\0\xff=x"), None);
    }

    #[test]
    fn the_first_of_two_same_variables_counts_and_long_values_are_cut() {
        let long = format!("CI_COMMIT_REF_NAME={}", "ä".repeat(2000));
        let ci = from_environment(&environment(&["GITLAB_CI=1", &long, "CI_COMMIT_REF_NAME=main"])).unwrap();
        assert!(ci.branch.starts_with("ää") && ci.branch.len() <= MAX_VALUE);
    }
}
