"""Many processes that train one model; the only room that imports torch.distributed."""
