"""``python -m datasets COMMAND``: the commands of this package."""

import sys

from datasets.runtime.command_line import Command, main

COMMANDS = {
    "miniature": Command(
        summary="render a small data set of walking people in a real one's layout",
        config="datasets.miniature.config:MiniatureConfig",
        run="datasets.miniature.render:make_miniature",
    ),
    "index": Command(
        summary="list and check a data set's images",
        config="datasets.sources.config:IndexConfig",
        run="datasets.sources.index:make_index",
    ),
    "import-poses": Command(
        summary="read published OpenPose CSV files",
        config="datasets.poses.config:ImportPosesConfig",
        run="datasets.poses.table:make_imported_poses",
    ),
    "extract-poses": Command(
        summary="find the skeletons of an index's images",
        config="datasets.poses.config:ExtractPosesConfig",
        run="datasets.poses.extract:make_extracted_poses",
    ),
    "train-pose": Command(
        summary="train the small pose network",
        config="datasets.poses.config:TrainPoseConfig",
        run="datasets.poses.tiny.training:make_pose_network",
    ),
    "compare-poses": Command(
        summary="measure one pose file by another: PCK, errors, overlays",
        config="datasets.poses.config:ComparePosesConfig",
        run="datasets.poses.compare:make_comparison",
    ),
    "show-poses": Command(
        summary="draw skeletons over their images on a contact sheet",
        config="datasets.poses.config:ShowPosesConfig",
        run="datasets.poses.sheets:run_show_poses",
    ),
    "export-poses": Command(
        summary="write poses in the published CSV format",
        config="datasets.poses.config:ExportPosesConfig",
        run="datasets.poses.table:run_export",
    ),
    "export-pairs": Command(
        summary="write the pairs of images of one person by PATN's rule, or compare them with a published file",
        config="datasets.poses.config:ExportPairsConfig",
        run="datasets.poses.pairs:run_export",
    ),
    "select-subsets": Command(
        summary="choose the training images of each fraction",
        config="datasets.sources.config:SelectSubsetsConfig",
        run="datasets.sources.subsets:make_subsets",
    ),
    "write-shards": Command(
        summary="write images and poses as WebDataset tars",
        config="datasets.shards.config:WriteShardsConfig",
        run="datasets.shards.write:make_shards",
    ),
    "encode": Command(
        summary="compute VAE latents and image-encoder tokens once",
        config="datasets.shards.config:EncodeConfig",
        run="datasets.shards.encode:make_encoded",
    ),
    "verify": Command(
        summary="re-hash finished artifacts",
        config="datasets.runtime.verify:VerifyConfig",
        run="datasets.runtime.verify:run_verify",
    ),
    "store": Command(
        summary="list a store's artifacts: size, age, who needs them",
        config="datasets.store.config:StoreConfig",
        run="datasets.store.prune:run_list",
    ),
    "store prune": Command(
        summary="remove what no kept result needs (a dry run without --remove)",
        config="datasets.store.config:PruneStoreConfig",
        run="datasets.store.prune:run_prune",
    ),
    "store forget": Command(
        summary="name, and remove, what has seen a person or an image",
        config="datasets.store.config:ForgetConfig",
        run="datasets.store.forget:run_forget",
    ),
}

if __name__ == "__main__":
    sys.exit(main("datasets", COMMANDS))
