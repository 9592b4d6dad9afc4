"""Where subjects come from: the registry, the hub, folders on disk, the bundled model."""
