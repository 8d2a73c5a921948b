//! What a cgroup's path says: the systemd unit and the container that it belongs to.

/// The systemd unit of a cgroup path: the innermost component that is one. Empty when there is none.
///
/// systemd names a unit's cgroup after the unit, suffix included; a unit may make cgroups of its own
/// below (`systemd.slice(5)`, "Control groups").
pub(super) fn unit(path: &str) -> &str {
    const SUFFIXES: [&str; 7] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap", ".timer"];
    path.rsplit('/').find(|part| SUFFIXES.iter().any(|suffix| part.ends_with(suffix))).unwrap_or("")
}

/// The container id in a cgroup path: 64 hexadecimal digits, as Docker, containerd, CRI-O and Podman
/// put them, bare or inside a scope's name (`docker-<id>.scope`). Empty when there is none.
pub(super) fn container(path: &str) -> &str {
    path.rsplit('/')
        .find_map(|part| {
            let part = part.strip_suffix(".scope").unwrap_or(part);
            let id = part.rsplit(['-', ':']).next()?;
            (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
        })
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_at_any_depth() {
        assert_eq!(unit("/system.slice/gitlab-runner.service"), "gitlab-runner.service");
        assert_eq!(unit("/system.slice/gitlab-runner.service/job-7"), "gitlab-runner.service");
        assert_eq!(unit("/user.slice/user-1000.slice/session-3.scope"), "session-3.scope");
        assert_eq!(unit("/plain/cgroup"), "");
        assert_eq!(unit("/"), "");
    }

    #[test]
    fn containers_of_each_runtime_are_found() {
        let id = "4f".repeat(32);
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/besteffort/pod1/{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/system.slice/containerd.service/kubepods:cri-containerd:{id}"),
        ] {
            assert_eq!(container(&path), id, "{path}");
        }
        assert_eq!(container("/docker/abc"), "");
        assert_eq!(container(&format!("/x/{}", "z".repeat(64))), "");
    }
}
