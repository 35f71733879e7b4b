"""Options and commands of Apptainer that sifkit does not have: what each is, and what to do instead.

Imported only when such a word is met.
"""

from __future__ import annotations

from overlay.failure import USAGE, Failure

_LIBRARIES = (
    "--env APPEND_LD_LIBRARY_PATH=/.singularity.d/libs, and --bind LIBRARY:/.singularity.d/libs/NAME for each library "
    "that `ldconfig -p | grep -E '{names}'` lists. The devices are there; with --contain add --bind {devices}"
)
_NVIDIA = _LIBRARIES.format(names="libcuda|libnvidia", devices="/dev/nvidia0,/dev/nvidiactl,/dev/nvidia-uvm")
_LIMITS = "use --cpus, --memory, --pids-limit and their like, or systemd-run --user --scope with what it can set"
_FETCH = "leave it out: sifkit fetches no images, so there is nothing to tell it about registries"
_NETWORK = "use --net for none at all; or make the network, and start sifkit in it: ip netns exec NAME sifkit ..."
_CRYPT = "decrypt it with Apptainer: apptainer build --sandbox image/ image.sif"

# Option of run, exec, shell and test, or of the program itself -> what it is there, what to do instead.
OPTIONS = {
    "--nv": ("shows the NVIDIA driver's libraries in the container", _NVIDIA),
    "--nvccli": ("has nvidia-container-cli show the NVIDIA driver in the container", _NVIDIA),
    "--rocm": (
        "shows the libraries of ROCm in the container",
        _LIBRARIES.format(names="libamd|libhip|libhsa|librocm", devices="/dev/kfd,/dev/dri"),
    ),
    "--fusemount": ("mounts a FUSE file system in the container", "mount it on the host, and show it: --bind DIR"),
    "--security": (
        "sets SELinux, AppArmor and seccomp for the payload",
        "start sifkit under them: runcon, aa-exec; an ordinary user's payload gains no rights whatever it does",
    ),
    "--apply-cgroups": ("sets limits from a TOML file", _LIMITS),
    "--blkio-weight": ("weighs access to disks", _LIMITS.replace("what it can set", "-p IOWeight=100")),
    "--blkio-weight-device": ("weighs access to one disk", _LIMITS.replace("what it can set", "-p IODeviceWeight=...")),
    "--oom-kill-disable": (
        "has what exceeds its memory wait and not end; the kernel has it no more (cgroup v2)",
        "leave it out, or give more --memory",
    ),
    "--netns-path": ("joins a network namespace", _NETWORK),
    "--network-args": ("is for networks of CNI plugins", _NETWORK),
    "--sharens": (
        "shares namespaces and image among containers started together",
        "leave it out: without --ipc and --pid they share memory and processes with the host, so with each other",
    ),
    "--passphrase": ("asks for the passphrase of an encrypted image", _CRYPT),
    "--pem-path": ("is the key of an encrypted image", _CRYPT),
    "--authfile": ("has the login of an OCI registry", _FETCH),
    "--docker-login": ("asks for the login of an OCI registry", _FETCH),
    "--docker-host": ("is where a Docker daemon listens", _FETCH),
    "--no-https": ("is about fetching images", _FETCH),
    "--disable-cache": ("is about fetching images", _FETCH),
    "--underlay": ("makes mount points without overlayfs", "leave it out: sifkit does so where overlayfs is missing"),
    "--nocolor": ("prints without colour", "leave it out: sifkit prints errors without colour"),
    "--config": ("is Apptainer's configuration file", "sifkit has its own: docs/configuration.md"),
    "--runscript-timeout": (
        "limits how long the image's scripts may take",
        "leave it out: sifkit waits for them; Ctrl-C and signals end it, and so does: timeout 60 sifkit ...",
    ),
    "--build-config": ("is for building", "apptainer build"),
}

# Of the program itself, before the command; behind it -c is --contain.
_SHORT = {"-c": "--config"}

_ASK = "apptainer {name}; what it makes, sifkit runs"
_SIGN = "apptainer {name}; sifkit sif list shows the signatures of an image, sifkit sif check whether it is whole"
_INSTANCE = "sifkit run IMAGE & in a session that stays (tmux, systemd-run --user); signals to it reach the payload"

# Command -> what it is there, what to do instead.
COMMANDS = {
    "build": ("makes images", _ASK),
    "pull": ("fetches images", _ASK),
    "push": ("sends images to a registry", "apptainer push"),
    "search": ("searches a container library", "apptainer search"),
    "delete": ("deletes images from a container library", "apptainer delete"),
    "remote": ("keeps the addresses of services", _FETCH.replace("leave it out", "nothing")),
    "registry": ("keeps logins of registries", _FETCH.replace("leave it out", "nothing")),
    "keyserver": ("keeps the addresses of key servers", "apptainer keyserver"),
    "key": ("keeps keys for signatures", "apptainer key"),
    "sign": ("signs images", _SIGN),
    "verify": ("verifies signatures of images", _SIGN),
    "instance": ("runs containers in the background", _INSTANCE),
    "oci": ("runs OCI bundles", "runc or crun; or sifkit exec BUNDLE/rootfs COMMAND"),
    "checkpoint": ("saves and restores what runs, with DMTCP", "dmtcp_launch in the container"),
    "capability": ("lets users have capabilities", "--add-caps gives them to all, in their own namespace"),
    "config": ("edits apptainer.conf", "edit sifkit's own: docs/configuration.md"),
    "plugin": ("keeps plugins", "sifkit has none"),
    "help": ("shows help", "sifkit --help, sifkit COMMAND --help"),
    "version": ("shows the version", "sifkit --version"),
}


def option(name: str) -> Failure | None:
    """What to say of the option ``name``; None when Apptainer does not have it either."""
    name = _SHORT.get(name, name)
    if name not in OPTIONS:
        return None
    what, instead = OPTIONS[name]
    return Failure(f"sifkit has no {name}", f"in Apptainer it {what}", instead, USAGE)


def command(name: str) -> Failure | None:
    """What to say of the command ``name``; None when Apptainer does not have it either."""
    if name not in COMMANDS:
        return None
    what, instead = COMMANDS[name]
    return Failure(f"sifkit has no command {name}", f"in Apptainer it {what}", instead.format(name=name), USAGE)
