"""Training objectives: functions of tensors, computed in fp32. They never see a model, a tokenizer or a logger."""
