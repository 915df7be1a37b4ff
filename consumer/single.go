package consumer

type single struct{}
